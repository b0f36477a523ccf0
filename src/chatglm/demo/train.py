"""Train the tiny model: `python -m chatglm.demo.train --run FOLDER --tokens 40e6`.

Runs on a CPU or an NVIDIA GPU. A run that was stopped goes on from its last checkpoint when started again with the same
folder, to the bit (on a CPU with one thread) as if it had not stopped. FOLDER/model is a complete model folder after
every checkpoint.
"""

import argparse
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatglm.demo.encoding import KINDS, Encoder
from chatglm.demo.exact import judge, mean
from chatglm.demo.folder import VOCABULARY_FILE, make_config, save_folder
from chatglm.demo.packing import Batch, shard
from chatglm.demo.recipe import NAME, SHAPE, Recipe, text_sha256
from chatglm.demo.spm import write_vocabulary
from chatglm.model import segments
from chatglm.model.network import ChatGLMForConditionalGeneration

CHECKPOINT_FILE = "checkpoint.pt"
MODEL_FOLDER = "model"
_AHEAD = 2  # shards that each worker is ahead


@dataclass
class State:
    """Where a run stands. Steps decide everything; seconds are only told."""

    step: int = 0
    shard: int = 0
    used: int = 0  # batches of it that are done
    tokens: int = 0  # without padding
    seconds: float = 0.0


class Trainer:
    """One run: network, optimizer, and the place in the stream of text.

    Args:
        folder: of the run, with its vocabulary.
        recipe: what decides the weights.
        device: "cpu" or "cuda".
        bfloat16: products in bfloat16; weights stay float32.
        workers: processes that make the text ahead; 0: it is made in this one.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, device: str = "cpu", bfloat16: bool = False, workers: int = 0
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.folder, self.recipe, self.device, self.bfloat16, self.workers = folder, recipe, device, bfloat16, workers
        self.vocabulary = folder / VOCABULARY_FILE
        self.encoder = Encoder(self.vocabulary)
        self.model = ChatGLMForConditionalGeneration(make_config(self.encoder))
        torch.nn.Module.to(self.model, device)
        self.optimizers = make_optimizers(self.model, recipe)
        self.state = State()
        self.scores: dict[str, dict[str, float]] = {}
        self.losses = Losses()

    def batches(self) -> Iterator[Batch]:
        """Batches from where the run stands to its end."""
        for batches in self._shards():
            while self.state.used < len(batches):
                if self.state.step >= self.recipe.steps:
                    return
                batch = batches[self.state.used]
                self.state.used += 1
                yield batch
            self.state.shard, self.state.used = self.state.shard + 1, 0

    def _shards(self) -> Iterator[list[Batch]]:
        """Shards without end, from the one the run stands in."""
        first = self.state.shard
        if not self.workers:
            while True:
                yield shard(self.encoder, self.recipe, self.state.shard)
        with ProcessPoolExecutor(self.workers) as pool:
            waiting: deque[Future[list[Batch]]] = deque()
            for index in range(first, first + _AHEAD * self.workers):
                waiting.append(self._made(pool, index))
            while True:
                yield waiting.popleft().result()
                waiting.append(self._made(pool, self.state.shard + len(waiting)))

    def _made(self, pool: Executor, index: int) -> "Future[list[Batch]]":
        return pool.submit(_made_apart, self.vocabulary, self.recipe, index)

    def step(self, batch: Batch) -> float:
        """One update; gives the mean loss over the learned tokens."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * self.recipe.share(self.state.step)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
            losses = answer_losses(self.model, batch, self.device)
        loss = losses.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.state.step += 1
        self.state.tokens += batch.num_tokens
        self.losses.add(losses.detach().cpu(), batch.kinds[batch.learned])
        return loss.item()

    def run(
        self,
        samples: int = 100,
        report_every: int = 50,
        save_minutes: float = 10.0,
        judge_every: int = 1000,
        max_hours: float | None = None,
    ) -> None:
        """Train to the end of the recipe or until the hours are over, whatever comes first; then save.

        Args:
            samples: questions a topic and split of the last judgement; those on the way ask a tenth.
            report_every: steps between two lines of progress.
            save_minutes: between two checkpoints.
            judge_every: steps between two judgements.
            max_hours: of this call.
        """
        began = saved = time.monotonic()
        for batch in self.batches():
            started = time.perf_counter()
            self.step(batch)
            self.state.seconds += time.perf_counter() - started
            if self.state.step % report_every == 0:
                self.report()
            if self.state.step % judge_every == 0:
                self.judge(max(1, samples // 10))
            if time.monotonic() - saved > 60 * save_minutes:
                self.save()
                saved = time.monotonic()
            if max_hours is not None and time.monotonic() - began > 3600 * max_hours:
                break
        if self.state.step >= self.recipe.steps:
            self.judge(samples)
        self.save()

    def report(self) -> None:
        """One line of progress."""
        state = self.state
        speed = state.tokens / max(state.seconds, 1e-9)
        _print(
            f"step {state.step}/{self.recipe.steps}  {state.tokens / 1e6:.2f}M tokens  {speed:,.0f} tokens/s  "
            f"rate {self.recipe.share(state.step):.2f}  loss {self.losses.take()}"
        )

    def judge(self, samples: int) -> None:
        """Measure held-out accuracy."""
        self.model.train(False)
        self.scores = judge(self.model, self.encoder, samples)
        self.model.train(True)
        for split, found in self.scores.items():
            _print(f"  {split} {mean(found):.3f}: " + "  ".join(f"{name} {score:.2f}" for name, score in found.items()))

    def save(self) -> None:
        """Write the model folder, and the checkpoint in one piece, so that a stop in between leaves the old one."""
        save_folder(self.folder / MODEL_FOLDER, self.model, self.vocabulary, self.record())
        states = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "state": asdict(self.state),
            "rng": torch.get_rng_state(),
            "scores": self.scores,
            "recipe": asdict(self.recipe),
            "text": text_sha256(),
        }
        file = self.folder / CHECKPOINT_FILE
        torch.save(states, file.with_suffix(".new"))
        os.replace(file.with_suffix(".new"), file)

    def resume(self) -> None:
        """Go on from the checkpoint of the folder, if there is one.

        Raises:
            ValueError: it is of another recipe or another text.
        """
        file = self.folder / CHECKPOINT_FILE
        if not file.is_file():
            return
        states = torch.load(file, map_location=self.device, weights_only=True)
        if states["text"] != text_sha256():
            raise ValueError(f"{file} was trained on other text; go on with the version of the package it began with")
        kept = {**asdict(self.recipe), "tokens": None}
        if {**states["recipe"], "tokens": None} != kept:
            raise ValueError(f"{file} is of the recipe {states['recipe']}; only its tokens may differ from {kept}")
        self.model.load_state_dict(states["model"])
        for optimizer, state in zip(self.optimizers, states["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.state = State(**states["state"])
        self.scores = states["scores"]
        torch.set_rng_state(states["rng"].cpu())

    def record(self) -> dict[str, Any]:
        """What `RECIPE.json` says."""
        return {
            "name": NAME,
            "recipe": asdict(self.recipe),
            "shape": SHAPE,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "steps": self.state.step,
            "tokens": self.state.tokens,
            "hours": round(self.state.seconds / 3600, 2),
            "commit": commit(),
            "text_sha256": text_sha256(),
            "machine": f"{machine(self.device)}, {torch.get_num_threads()} threads",
            "bfloat16_products": self.bfloat16,
            "sentencepiece": version("sentencepiece"),
            "torch": torch.__version__,
            "scores": self.scores,
        }


class Losses:
    """Sums of losses by kind of conversation since the last report."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.sums, self.counts = torch.zeros(len(KINDS)), torch.zeros(len(KINDS))

    def add(self, losses: Tensor, kinds: Tensor) -> None:
        """Losses of tokens [tokens] and the kinds they are of."""
        self.sums.index_add_(0, kinds, losses.float())
        self.counts.index_add_(0, kinds, torch.ones(len(kinds)))

    def take(self) -> str:
        """Their means in words; they begin anew."""
        total = float(self.sums.sum() / self.counts.sum().clamp(min=1))
        means = (self.sums / self.counts.clamp(min=1)).tolist()
        self._begin()
        return f"{total:.3f} (" + " ".join(f"{kind} {one:.3f}" for kind, one in zip(KINDS, means, strict=True)) + ")"


def make_optimizers(model: ChatGLMForConditionalGeneration, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon (https://kellerjordan.github.io/posts/muon) for the matrices inside the layers, AdamW for the rest."""
    layers = set(model.transformer.encoder.layers.parameters())
    matrices = [one for one in model.parameters() if one in layers and one.dim() == 2]
    others = [one for one in model.parameters() if one not in layers or one.dim() != 2]
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=0.0, fused=True),
    ]


def answer_losses(model: ChatGLMForConditionalGeneration, batch: Batch, device: str = "cpu") -> Tensor:
    """Cross entropy of each learned token [learned tokens]; the output layer runs at those positions only."""
    inputs, targets, learned, positions = (
        part.to(device) for part in (batch.input_ids, batch.targets, batch.learned, batch.positions)
    )
    apart = {"attention": segments.segment_attention, "runs": segments.runs(batch.segments)}
    found = model.transformer(input_ids=inputs, position_ids=positions, use_cache=False, **apart)
    logits = model.transformer.output_layer(found.last_hidden_state[learned])  # [learned tokens, vocabulary]
    return torch.nn.functional.cross_entropy(logits.float(), targets[learned], reduction="none")


@cache
def _encoder(vocabulary: Path) -> Encoder:
    return Encoder(vocabulary)


def _made_apart(vocabulary: Path, recipe: Recipe, index: int) -> list[Batch]:
    """A shard, made in a worker."""
    torch.set_num_threads(1)
    return shard(_encoder(vocabulary), recipe, index)


@cache
def commit() -> str:
    """The commit of the sources, where they lie in a repository; "+" where they were changed since."""
    import subprocess

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    return (git("rev-parse", "HEAD") or "unknown") + ("+" if git("status", "--porcelain", "--", ".") else "")


def machine(device: str) -> str:
    """The processor the run is on, in words."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return next((line.split(": ")[1] for line in lines.split("\n") if line.startswith("model name")), "CPU")


def prepare(folder: Path, recipe: Recipe) -> None:
    """Make the folder, and the vocabulary if it has none."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / VOCABULARY_FILE).is_file():
        write_vocabulary(folder, recipe.vocabulary_seed)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m chatglm.demo.train", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run; a checkpoint in it is continued")
    parser.add_argument("--tokens", type=float, default=Recipe.tokens, help="length of the run (default 40e6)")
    parser.add_argument("--batch-tokens", type=int, default=Recipe.batch_tokens, help="of a step (default 4096)")
    parser.add_argument("--matrix-rate", type=float, default=Recipe.matrix_rate, help="highest rate of Muon")
    parser.add_argument("--rate", type=float, default=Recipe.learning_rate, help="highest rate of AdamW")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--workers", type=int, default=0, help="processes that make text ahead (default 0: none)")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="seed of the text and of the first weights")
    parser.add_argument("--samples", type=int, default=100, help="questions a topic and split at the end (default 100)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--save-minutes", type=float, default=10.0, help="between two checkpoints (default 10)")
    parser.add_argument("--judge-every", type=int, default=1000, help="steps between two judgements (default 1000)")
    parser.add_argument("--max-hours", type=float, help="stop after so many hours, with a checkpoint")
    parser.add_argument("--nice", type=int, default=0, help="lower the priority by so much (0 to 19)")
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="products in bfloat16, weights stay float32: faster where the processor has it",
    )
    options = parser.parse_args(arguments)
    if options.nice:
        os.nice(options.nice)
    torch.set_num_threads(options.threads)
    recipe = replace(
        Recipe(),
        seed=options.seed,
        tokens=int(options.tokens),
        batch_tokens=options.batch_tokens,
        matrix_rate=options.matrix_rate,
        learning_rate=options.rate,
    )
    prepare(options.run, recipe)
    trainer = Trainer(options.run, recipe, options.device, options.bfloat16, options.workers)
    trainer.resume()
    trainer.run(
        options.samples,
        save_minutes=options.save_minutes,
        judge_every=options.judge_every,
        max_hours=options.max_hours,
    )


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201  the progress of a command


if __name__ == "__main__":
    main()
