"""What guesses that nobody asked for bring, and what they cost where nothing is copied.

    python benchmarks/lookup.py [--layers 4] [--scheme int4] [--tokens 96]

A network of 6B widths with random weights. Greedy, its answers soon repeat themselves, as copied text does; sampled, no
four tokens ever come twice. Each with `draft="auto"` and without, in turn, with the same tokens; processor seconds.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from common import hardware, model_of

from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import SamplingParams

SETTINGS = {
    "an answer that copies": SamplingParams(temperature=0, ignore_eos=True),
    "one that copies nothing": SamplingParams(temperature=1000, seed=1, ignore_eos=True),
}


def answer(
    engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams
) -> tuple[float, list[tuple[int, ...]]]:
    """Processor seconds of some answers, and their tokens."""
    began = time.process_time()
    done = engine.generate(prompts, params)
    return time.process_time() - began, [one.token_ids for one in done]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="what guesses bring that nobody asked for")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--scheme", default="int4")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(hardware())
    engine = Engine(model_of(options.scheme, options.layers), EngineConfig(kv_memory=2 * 10**8, prefix_cache=False))
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 60000, (32,), generator=generator).tolist() for _ in range(4)]
    print(f"{'':<26}{'answers at once':>16}{'without s':>12}{'auto s':>10}{'times':>8}{'came true':>14}")
    for name, settings in SETTINGS.items():
        for count in (1, 2, 4):
            params = replace(settings, max_tokens=options.tokens)
            before = engine.stats()
            rounds = [
                [answer(engine, prompts[:count], replace(params, draft=draft)) for draft in (None, "auto")]
                for _ in range(options.rounds)
            ]
            assert all(plain[1] == auto[1] for plain, auto in rounds), "guesses change no token"
            plain, auto = (statistics.median(one[which][0] for one in rounds) for which in (0, 1))
            after = engine.stats()
            true = after.drafts_accepted - before.drafts_accepted, after.drafts_proposed - before.drafts_proposed
            print(f"{name:<26}{count:>16}{plain:>12.2f}{auto:>10.2f}{plain / auto:>8.2f}{true[0]:>8} of {true[1]}")


if __name__ == "__main__":
    main()
