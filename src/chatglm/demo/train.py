"""Train the tiny model: `python -m chatglm.demo.train --out FOLDER --minutes 50`.

Runs on a CPU or an NVIDIA GPU. A run that was stopped goes on from its last checkpoint when
started again with the same folder. The folder is a complete model folder after every checkpoint.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatglm.demo.batches import Batch, pool_batches
from chatglm.demo.encoding import Encoder
from chatglm.demo.folder import VOCABULARY_FILE, make_config, save_folder
from chatglm.demo.judge import judge, mean
from chatglm.demo.recipe import NAME, SHAPE, Recipe
from chatglm.demo.spm import write_vocabulary
from chatglm.model.network import ChatGLMForConditionalGeneration

CHECKPOINT_FILE = "checkpoint.pt"
_LAST_RATE = 0.02  # of the learning rate, at the end of the cosine


@dataclass(frozen=True)
class Budget:
    """How long to train: so many minutes, or so many steps."""

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError(f"give either minutes or steps, not {self.minutes} and {self.steps}")

    def progress(self, seconds: float, step: int) -> float:
        """The used share, 0 to 1."""
        used = step / max(self.steps, 1) if self.steps is not None else seconds / (60 * (self.minutes or 1.0))
        return min(used, 1.0)


@dataclass
class State:
    """Where a run stands."""

    step: int = 0
    pool: int = 0
    pool_progress: float = 0.0  # the progress the pool in use was drawn at
    used: int = 0  # batches of it that are done
    tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


class Trainer:
    """One run: network, optimizer, and the place in the stream of text."""

    def __init__(
        self, folder: Path, recipe: Recipe, budget: Budget, device: str = "cpu", bfloat16: bool = False
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.folder, self.recipe, self.budget, self.device = folder, recipe, budget, device
        self.vocabulary = folder / VOCABULARY_FILE
        self.encoder = Encoder(self.vocabulary)
        self.model = ChatGLMForConditionalGeneration(make_config(self.encoder))
        torch.nn.Module.to(self.model, device)
        self.optimizer = make_optimizer(self.model, recipe)
        self.state = State()
        self.bfloat16 = bfloat16

    def progress(self) -> float:
        return self.budget.progress(self.state.seconds, self.state.step)

    def batches(self) -> Iterator[Batch]:
        """Batches until the budget is used; the text follows the progress, so copying drills become fewer."""
        state = self.state
        while True:
            if state.used == 0:
                state.pool_progress = self.progress()
            for batch in islice(
                pool_batches(self.encoder, self.recipe, state.pool, state.pool_progress), state.used, None
            ):
                if self.progress() >= 1.0:
                    return
                state.used += 1
                yield batch
            state.pool, state.used = state.pool + 1, 0

    def step(self, batch: Batch) -> float:
        """One update; gives the mean loss over the learned tokens."""
        rate = learning_rate(self.recipe, self.state.step, self.progress())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
            loss = answer_loss(self.model, batch, self.device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.step += 1
        self.state.tokens += batch.num_tokens
        return loss.item()

    def run(self, samples: int, report_every: int = 50, save_every: float = 240.0) -> None:
        """Train to the end of the budget, with a report every so many steps and a checkpoint every so many seconds.

        The last judgement asks `samples` questions a topic and split, those on the way a fifth of them.
        """
        saved = self.state.seconds
        for batch in self.batches():
            started = time.perf_counter()
            loss = self.step(batch)
            self.state.seconds += time.perf_counter() - started
            if self.state.step % report_every == 0:
                self.state.losses.append(round(loss, 4))
                self.report(loss)
            if self.state.seconds - saved > save_every:
                saved = self.state.seconds
                self.save(max(1, samples // 5))
        self.save(samples)

    def report(self, loss: float) -> None:
        state = self.state
        speed = state.tokens / max(state.seconds, 1e-9)
        _print(
            f"step {state.step}  {state.tokens / 1e6:.2f}M tokens  {speed:,.0f} tokens/s  "
            f"{self.progress():.0%}  loss {loss:.3f}"
        )

    def save(self, samples: int) -> None:
        """Judge, and write the model folder and the checkpoint."""
        self.model.train(False)
        scores = judge(self.model, self.encoder, samples)
        self.model.train(True)
        _print("  ".join(f"{split} {mean(found):.3f}" for split, found in scores.items()))
        for split, found in scores.items():
            _print(f"  {split}: " + "  ".join(f"{name} {score:.2f}" for name, score in found.items()))
        save_folder(self.folder, self.model, self.vocabulary, self.record(scores, samples))
        states = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": asdict(self.state),
        }
        torch.save(states, self.folder / CHECKPOINT_FILE)

    def resume(self) -> None:
        """Go on from the checkpoint of the folder, if there is one."""
        file = self.folder / CHECKPOINT_FILE
        if file.is_file():
            states = torch.load(file, map_location=self.device, weights_only=True)
            self.model.load_state_dict(states["model"])
            self.optimizer.load_state_dict(states["optimizer"])
            self.state = State(**states["state"])

    def record(self, scores: dict[str, dict[str, float]], samples: int) -> dict[str, Any]:
        """What `RECIPE.json` says."""
        return {
            "name": NAME,
            "recipe": asdict(self.recipe),
            "shape": SHAPE,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "steps": self.state.step,
            "tokens": self.state.tokens,
            "seconds": round(self.state.seconds),
            "device": self.device,
            "bfloat16_products": self.bfloat16,
            "sentencepiece": version("sentencepiece"),
            "samples_per_score": samples,
            "scores": scores,
        }


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only."""
    parameters = list(model.parameters())
    groups = [
        {"params": [one for one in parameters if one.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [one for one in parameters if one.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)


def learning_rate(recipe: Recipe, step: int, progress: float) -> float:
    """Warm up over the first steps, then half a cosine down to nearly nothing."""
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup_steps) * (_LAST_RATE + (1 - _LAST_RATE) * cosine)


def answer_loss(model: ChatGLMForConditionalGeneration, batch: Batch, device: str = "cpu") -> Tensor:
    """Mean cross entropy over learned tokens; the output layer runs at those positions only."""
    inputs, targets, learned = (part.to(device) for part in (batch.input_ids, batch.targets, batch.learned))
    hidden = model.transformer(input_ids=inputs, use_cache=False).last_hidden_state  # [rows, columns, hidden]
    logits = model.transformer.output_layer(hidden[learned])  # [learned tokens, vocabulary]
    return torch.nn.functional.cross_entropy(logits.float(), targets[learned])


def prepare(folder: Path, recipe: Recipe) -> None:
    """Make the folder, and the vocabulary if it has none."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / VOCABULARY_FILE).is_file():
        write_vocabulary(folder, recipe.vocabulary_seed)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m chatglm.demo.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model; a checkpoint in it is continued")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="training time, without judging and saving")
    length.add_argument("--steps", type=int, help="number of updates; with one thread the result is reproducible")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="seed of the text and of the first weights")
    parser.add_argument("--samples", type=int, default=100, help="questions a topic and split at the end (default 100)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="products in bfloat16, weights stay float32: faster where the processor has it",
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    recipe = replace(Recipe(), seed=options.seed)
    prepare(options.out, recipe)
    budget = Budget(options.minutes, options.steps)
    trainer = Trainer(options.out, recipe, budget, options.device, options.bfloat16)
    trainer.resume()
    trainer.run(options.samples)


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201  the progress of a command


if __name__ == "__main__":
    main()
