"""transformers' Trainer with loss where tokens are learned, checkpoints in one piece, and a stop at NaN."""

import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from chatglm.errors import TrainingError
from chatglm.train import answers, methods
from chatglm.train.packing import IGNORED
from chatglm.train.settings import Settings

_PART = ".part"  # folder in which a checkpoint is written


def last_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint of a run; each of them is whole."""
    return next(reversed(_checkpoints(out)), None)


def _checkpoints(out: Path) -> list[Path]:
    """The oldest first; folders that somebody has named in another way are none."""
    found = [path for path in out.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


class AnswerTrainer(Trainer):
    """Trains on batches of `packing.Collator`.

    The output layer runs only where the next token is learned, which is a part of the tokens of most data and the most
    expensive layer of a small batch.
    """

    mean_of_tokens = True  # the loss; else it is one of rows or pairs
    sums = 2  # numbers that `measure` gives

    def __init__(self, settings: Settings, out: Path, language: Any = None, **options: Any) -> None:
        super().__init__(**options)  # without the tokenizer, whose special tokens it would write into the model's files
        self.settings, self.out, self.language = settings, out, language
        self.model_accepts_loss_kwargs = self.mean_of_tokens  # then those of all steps of an update are counted
        self._part: Path | None = None

    def measure(self, model: nn.Module, inputs: dict[str, Any]) -> list[float]:
        """Of a batch of evaluation rows: what is summed over all of them."""
        losses = token_losses(model, inputs)
        return [losses.sum().item(), len(losses)]

    def named(self, sums: list[float]) -> dict[str, float]:
        """The metrics, of those sums."""
        loss = sums[0] / sums[1]
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Cross entropy over the learned tokens: their mean, or their sum over `num_items_in_batch`."""
        losses = token_losses(model, inputs)
        if num_items_in_batch is None:
            return losses.mean()
        loss = losses.sum() / num_items_in_batch
        if self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the mean over processes follows
        return loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One forward and backward pass; a loss that is no number ends the run before any weight takes it up."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            self._stop(f"the loss is {loss.item()}")
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        if norm is not None and not math.isfinite(float(norm)):
            self._stop(f"the gradient has the norm {float(norm)}")
        return norm

    def _stop(self, what: str) -> None:
        last = last_checkpoint(self.out)
        kept = "no checkpoint was written before" if last is None else f"{last} holds the weights of before"
        raise TrainingError(
            f"{what} in step {self.state.global_step + 1}; {kept}. A lower learning rate, a clean data file or "
            "dtype float32 are what helps most often"
        )

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """What is measured on the evaluation rows, each row once; answers where asked for."""
        rows: Any = self.eval_dataset
        model: Any = self.model
        share = Subset(rows, range(self.args.process_index, len(rows), self.args.world_size))
        loader = DataLoader(share, self.args.per_device_eval_batch_size, collate_fn=self.data_collator)
        self.model_wrapped.eval()
        found = torch.zeros(self.sums, dtype=torch.float64)
        with torch.inference_mode():
            for batch in loader:
                found += torch.tensor(self.measure(model, self._prepare_inputs(batch)), dtype=torch.float64)
        totals = self.accelerator.reduce(found.float().to(self.args.device), "sum").tolist()
        scores = self.named(totals) | self._answers()
        metrics = {f"{metric_key_prefix}_{name}": score for name, score in scores.items()}
        self.model_wrapped.train()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _answers(self) -> dict[str, float]:
        """Scores of the answers to the first evaluation rows, in percent."""
        rows: Any = self.eval_dataset
        model: Any = self.accelerator.unwrap_model(self.model)
        first = range(self.args.process_index, min(self.settings.eval_answers, len(rows)), self.args.world_size)
        found = [
            answers.compare(model, self.language, question, self.settings.eval_tokens)
            for index in first
            for example in rows[index]
            for question in answers.questions(example)
        ]
        if not self.settings.eval_answers:
            return {}
        sums = answers.totals(found)
        table = torch.tensor([sums.get(name, (0.0, 0)) for name in answers.NAMES], device=self.args.device)
        reduced = self.accelerator.reduce(table, "sum").tolist()
        pairs = zip(answers.NAMES, reduced, strict=True)
        return {name: total / count for name, (total, count) in pairs if count}

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.out if self._part is None else self._part)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Written beside and moved into place, so that every checkpoint there is, is whole."""
        self._part = self.out / _PART
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            if self.args.should_save:
                shutil.rmtree(self._part, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                shutil.rmtree(self.out / name, ignore_errors=True)
                os.replace(self._part / name, self.out / name)
                self._forget()
        except Exception as error:
            last = last_checkpoint(self.out)
            raise TrainingError(
                f"the checkpoint of step {self.state.global_step} cannot be written: {error} "
                f"({shutil.disk_usage(self.out).free / 1e6:,.1f} MB are free on its disk); "
                f"{'there is none before it' if last is None else f'{last} is whole'}"
            ) from error
        finally:
            if self.args.should_save:
                shutil.rmtree(self._part, ignore_errors=True)
            self._part = None

    def _forget(self) -> None:
        """Only so many checkpoints are kept."""
        for checkpoint in _checkpoints(self.out)[: -self.settings.keep]:
            shutil.rmtree(checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self.args.should_save:
            model = self.accelerator.unwrap_model(self.model)
            methods.save(model, Path(output_dir or self.out), self.settings, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        methods.restore(self.model, Path(resume_from_checkpoint), self.settings)


def token_losses(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """Cross entropy of each learned token of a batch [learned tokens], in float32."""
    labels: Tensor = inputs["labels"]
    wanted = torch.nn.functional.pad(labels[:, 1:] != IGNORED, (0, 1))  # where the next token is learned
    given = {name: value for name, value in inputs.items() if name != "labels"}
    outputs = model(**given, logits_to_keep=wanted, use_cache=False)
    targets = labels[:, 1:][wanted[:, :-1]]
    return torch.nn.functional.cross_entropy(outputs.logits.float(), targets, reduction="none")
