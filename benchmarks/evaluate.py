"""Scoring questions like those of MMLU, through `chatglm evaluate`'s engine and through transformers, in the same run.

    python benchmarks/evaluate.py [--shape tiny|7] [--items 64] [--batch 8] [--scheme int8]

Every prompt has five examples in common with all others and a question of its own; the likeliest of four letters is the
answer. The other side is what scripts for transformers do: rows of `--batch` prompts, padded on the left, one forward
pass each, the logits of the last position (`logits_to_keep=1`). Both compute the same network. "tiny" is the embedded
model, 7 the shapes of the 6B model with seven layers and random weights, packed as the scheme says.
"""

import argparse
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import hardware

from chatglm.evaluate.asking import Query
from chatglm.evaluate.local import LocalModel

LETTERS = ("A", "B", "C", "D")
HEADER = "The following are multiple choice questions (with answers) about small sums.\n\n"


def questions(count: int) -> tuple[str, list[str]]:
    """What all prompts begin with, and the prompts."""
    draw = random.Random(0)

    def question() -> str:
        one, other = draw.randrange(10, 1000), draw.randrange(10, 1000)
        wrong = [one + other + draw.randrange(1, 50) for _ in range(3)]
        lines = "\n".join(f"{letter}. {value}" for letter, value in zip(LETTERS, [*wrong, one + other], strict=True))
        return f"A farmer sells {one} eggs in spring and {other} eggs in summer. How many is that?\n{lines}\nAnswer:"

    shared = HEADER + "".join(f"{question()} D\n\n" for _ in range(5))
    return shared, [shared + question() for _ in range(count)]


def by_engine(local: LocalModel, shared: str, prompts: list[str]) -> list[tuple[float, ...]]:
    """Log-probabilities of the letters, as a run asks for them."""
    queries = deque(Query(str(i), text, letters=LETTERS, shared=shared) for i, text in enumerate(prompts))
    found = {reply.key: reply.logprobs for reply in local.replies(queries)}
    return [found[str(i)] for i in range(len(prompts))]


@torch.inference_mode()
def by_transformers(model: Any, tokenizer: Any, prompts: list[str], batch: int) -> list[tuple[float, ...]]:
    """The same by padded rows."""
    letters = [tokenizer.encode_text(letter, plain=True) for letter in LETTERS]
    lead = letters[0][:-1]  # where a letter is a blank and itself
    found: list[tuple[float, ...]] = []
    for begin in range(0, len(prompts), batch):
        rows = [
            [*tokenizer.get_prefix_tokens(), *tokenizer.encode_text(text, plain=True), *lead]
            for text in prompts[begin : begin + batch]
        ]
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1
        ).logits
        likely = logits[:, -1].float().log_softmax(-1)[:, [ids[-1] for ids in letters]]
        found += [tuple(row) for row in likely.tolist()]
    return found


def loaded(options: argparse.Namespace) -> tuple[Any, Any]:
    import chatglm

    model, tokenizer = chatglm.load(dtype="float32", device="cpu")
    if options.shape == "tiny":
        return model, tokenizer
    from common import model_of

    return model_of(options.scheme, int(options.shape)), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("tiny", "7"), default="tiny")
    parser.add_argument("--items", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--scheme", default="int8")
    options = parser.parse_args()
    model, tokenizer = loaded(options)
    shared, prompts = questions(options.items)
    local = LocalModel(model, tokenizer)
    tokens = [local.count(text) for text in prompts]
    print(hardware())
    sizes = f"{min(tokens)} to {max(tokens)} tokens, {local.count(shared)} shared"
    print(f"{options.shape}: {len(prompts)} prompts of {sizes}")
    ours, wall, processor = timed(lambda: by_engine(local, shared, prompts))
    theirs, other_wall, other_processor = timed(lambda: by_transformers(model, tokenizer, prompts, options.batch))
    print(f"engine        {len(prompts) / wall:8.2f} items/s, {processor:.2f} s of processor time")
    print(f"transformers  {len(prompts) / other_wall:8.2f} items/s, {other_processor:.2f} s; rows of {options.batch}")
    print(f"ratio         {other_wall / wall:8.2f}, of processor time {other_processor / processor:.2f}")
    print(f"the same answer: {sum(map(same, ours, theirs))} of {len(prompts)}")


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """What comes of it, seconds on the clock and of the processors."""
    wall, processor = time.perf_counter(), time.process_time()
    found = run()
    return found, time.perf_counter() - wall, time.process_time() - processor


def same(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether both find the same letter likeliest."""
    return max(range(4), key=one.__getitem__) == max(range(4), key=other.__getitem__)


if __name__ == "__main__":
    main()
