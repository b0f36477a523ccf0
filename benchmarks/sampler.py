"""What settings cost in the sampler: python benchmarks/sampler.py [--source PATH] [--rows 64] [--vocabulary 65024]

Microseconds of processor time a row, and how many times the plain row's that is. Plain is temperature 0.8 and top-p 0.8
over logits with a peak, as a trained model gives them. One thread does all the work. `--source` measures the
package of another checkout instead (its `src`), so that two versions can be compared on the same machine.
"""

import argparse
import statistics
import sys
import time
from typing import Any

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--source", help="the folder `src` of another checkout")
parser.add_argument("--rows", type=int, default=64)
parser.add_argument("--vocabulary", type=int, default=65_024)
parser.add_argument("--repeats", type=int, default=9)
options = parser.parse_args()
if options.source:
    sys.path.insert(0, options.source)

import torch  # noqa: E402

from chatglm import native  # noqa: E402
from chatglm.engine import sampling  # noqa: E402
from chatglm.engine.request import Request, SamplingParams  # noqa: E402

try:
    from chatglm.engine.rows import Row
except ImportError:  # an older checkout
    Row = sampling.Row  # type: ignore[attr-defined, misc]

PLAIN = {"temperature": 0.8, "top_p": 0.8}
BIAS = {"logit_bias": dict.fromkeys(range(100, 200), 1.0)}
PENALTIES = {"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.5}
CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("plain", 512, PLAIN),
    ("greedy", 512, {"temperature": 0}),
    ("bias of 100 ids", 512, PLAIN | BIAS),
    ("5 log-probabilities", 512, PLAIN | {"logprobs": 5}),
    ("penalties, 512 tokens", 512, PLAIN | PENALTIES),
    ("penalties, 32k tokens", 32_768, PLAIN | PENALTIES),
    ("all at once, 512 tokens", 512, PLAIN | BIAS | PENALTIES | {"logprobs": 5}),
    ("all at once, 32k tokens", 32_768, PLAIN | BIAS | PENALTIES | {"logprobs": 5}),
]


def rows_of(context: int, settings: dict[str, Any]) -> list[Any]:
    """Requests with prompts of random tokens, 64 of the answer behind them."""
    rows = []
    for seed in range(options.rows):
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(3, options.vocabulary, (context + 64,), generator=generator).tolist()
        request = Request(tokens[:context], SamplingParams(seed=seed, **settings), frozenset({2}))
        request.token_ids += tokens[context:]
        rows.append(Row(request, request.token_ids))
    return rows


def logits() -> torch.Tensor:
    values = 2 * torch.randn(options.rows, options.vocabulary, generator=torch.Generator().manual_seed(0))
    values[:, :20] += torch.linspace(16, 8, 20)
    return values


def main() -> None:
    if native.available():
        native.set_num_threads(1)  # so that the time of this thread is all of it
    sampler, peaked = sampling.Sampler(options.vocabulary - 226), logits()
    cases = [(name, rows_of(context, settings)) for name, context, settings in CASES]
    times: dict[str, list[float]] = {name: [] for name, _ in cases}
    for repeat in range(options.repeats + 1):  # the first is a warm-up; in turn, so that all see the same machine
        for name, rows in cases:
            again = peaked.clone()
            start = time.thread_time()
            sampler.sample(again, rows)
            times[name] += [time.thread_time() - start] if repeat else []
            for row in rows:
                row.request.token_ids.append(3 + repeat)
    print(f"{options.rows} rows of {options.vocabulary} tokens, torch {torch.__version__}; {sampling.__file__}")
    plain = statistics.median(times["plain"])
    for name, found in times.items():
        middle = statistics.median(found)
        print(f"{name:25s} {middle / options.rows * 1e6:8.0f} us/row {middle / plain:8.2f} times plain")


if __name__ == "__main__":
    main()
