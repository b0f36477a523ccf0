"""Trainers for what is not simply learned token by token: which of two answers is preferred, and labels."""

from typing import Any

import torch
from torch import Tensor, nn

from chatglm.train.packing import IGNORED
from chatglm.train.trainer import AnswerTrainer, token_losses


class PairTrainer(AnswerTrainer):
    """Direct preference optimization (arXiv:2305.18290) of a LoRA adapter; the reference is the base without it.

    Trains on batches of `packing.PairCollator`. The loss of a pair is `-log sigmoid(beta * margin)`, where the
    margin is how much more the adapter has raised the log-probability of the preferred answer than the other one's.
    """

    sums = 4
    mean_of_tokens = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean over the pairs of a batch."""
        return _losses(self.margins(model, inputs), self.settings.beta).mean()

    def margins(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """How much more each preferred answer was raised than the other one [pairs], natural logarithm."""
        raised = answer_logprobs(model, inputs) - self._reference(model, inputs)
        chosen, rejected = raised.chunk(2)
        return chosen - rejected

    @torch.no_grad()
    def _reference(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        network: Any = self.accelerator.unwrap_model(model)
        with network.disable_adapter():
            return answer_logprobs(model, inputs)

    def measure(self, model: nn.Module, inputs: dict[str, Any]) -> list[float]:
        margins = self.margins(model, inputs)
        losses = _losses(margins, self.settings.beta)
        return [losses.sum().item(), (margins > 0).sum().item(), margins.sum().item(), len(margins)]

    def named(self, sums: list[float]) -> dict[str, float]:
        """Loss; percent of pairs whose preferred answer was raised more; the mean margin times beta."""
        loss, right, margin, count = sums
        return {"loss": loss / count, "accuracy": 100 * right / count, "margin": self.settings.beta * margin / count}


class LabelTrainer(AnswerTrainer):
    """Trains `ChatGLMForSequenceClassification` on batches of `packing.LabelCollator`: cross entropy of the labels."""

    sums = 3
    mean_of_tokens = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean over the texts of a batch."""
        return torch.nn.functional.cross_entropy(label_logits(model, inputs), inputs["labels"])

    def measure(self, model: nn.Module, inputs: dict[str, Any]) -> list[float]:
        logits, labels = label_logits(model, inputs), inputs["labels"]
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        return [losses.item(), (logits.argmax(-1) == labels).sum().item(), len(labels)]

    def named(self, sums: list[float]) -> dict[str, float]:
        """Loss, and percent of texts whose label is right."""
        loss, right, count = sums
        return {"loss": loss / count, "accuracy": 100 * right / count}


def answer_logprobs(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """Log-probability of what is learned of each row [rows], summed over its tokens, in float32."""
    losses = token_losses(model, inputs)
    rows = (inputs["labels"][:, 1:] != IGNORED).nonzero()[:, 0]
    return -losses.new_zeros(len(inputs["labels"])).index_add(0, rows, losses)


def label_logits(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """Scores of the labels [rows, labels], in float32."""
    given = {name: inputs[name] for name in ("input_ids", "attention_mask", "position_ids") if name in inputs}
    logits: Tensor = model(**given, use_cache=False).logits
    return logits.float()


def _losses(margins: Tensor, beta: float) -> Tensor:
    return -torch.nn.functional.logsigmoid(beta * margins)
