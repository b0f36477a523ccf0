"""What the engine itself costs and how long it lets others wait, over a stub of a network: one table.

    python benchmarks/engine.py                      # this code
    python benchmarks/engine.py --source ../base/src # another checkout's, for the column "before"

The stub takes 20 ms a step and lets other threads run meanwhile, as a GPU or the native kernels do. Where a checkout
lacks something, a dash stands in its row. What one thread computes alone is told in its processor time.
"""

import argparse
import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"
STEP = 0.02
READERS = 64
VOCABULARY = 1024


def network(context: int = 4096, layers: int = 1, hidden: int = 64) -> Any:
    """A small network whose weights the native kernels multiply."""
    import torch

    from chatglm.model.config import ChatGLMConfig
    from chatglm.model.network import ChatGLMForConditionalGeneration
    from chatglm.quant.fused import fuse
    from chatglm.quant.model import quantize_model

    torch.manual_seed(0)
    config = ChatGLMConfig(
        num_layers=layers, hidden_size=hidden, ffn_hidden_size=2 * hidden,
        kv_channels=32, num_attention_heads=hidden // 32,
        padded_vocab_size=VOCABULARY, multi_query_attention=True, multi_query_group_num=1, seq_length=context,
    )  # fmt: skip
    model = ChatGLMForConditionalGeneration(config).eval()
    quantize_model(model, "int8")
    fuse(model)
    return model


class Stub:
    """Stands for a fused network: the same logits for every position, after `seconds`."""

    def __init__(self, seconds: float) -> None:
        import torch

        self.seconds, self.spent = seconds, 0.0
        self.fixed = torch.zeros(4096, VOCABULARY)
        self.fixed[:, 7] = 5

    def __call__(self, ids: list[int], positions: list[int], kept: list[int], paged: Any) -> Any:
        begun = time.thread_time()
        if self.seconds:
            time.sleep(self.seconds)
        logits = self.fixed[: len(kept)].clone()
        self.spent += time.thread_time() - begun
        return logits

    states = __call__  # what the head makes logits of: here they are that already

    def logits(self, states: Any) -> Any:
        return states


def stubbed(seconds: float = STEP, context: int = 4096) -> Any:
    model = network(context)
    model.__dict__["step_logits"] = Stub(seconds)
    return model


def engine_over(model: Any, **config: Any) -> Any:
    from chatglm.engine.config import EngineConfig
    from chatglm.engine.engine import Engine

    settings = {"max_running": 256, "max_batch_tokens": 4096, "max_prompt_tokens": 4096, "kv_memory": 100_000_000}
    return Engine(model, EngineConfig(**{**settings, **config}))


def greedy(max_tokens: int) -> Any:
    from chatglm.engine.request import SamplingParams

    return SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)


@contextmanager
def at_work(engine: Any) -> Iterator[Any]:
    """With the engine's own thread, where it has one."""
    if hasattr(engine, "start"):
        with engine:
            yield engine
    else:
        yield engine


def steps_of(engine: Any) -> int:
    return engine.loop.steps if hasattr(engine, "loop") else engine._steps


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def readers() -> dict[str, str]:
    """64 threads that read, and one that comes late and leaves."""
    engine, gaps, firsts = engine_over(stubbed()), [], []

    def read(index: int) -> None:
        begun, last = time.perf_counter(), None
        for _ in engine.stream(engine.submit([5, 6, 9 + index], greedy(80))):
            now = time.perf_counter()
            if last is None:
                firsts.append(now - begun)
            else:
                gaps.append(now - last)
            last = now

    with at_work(engine):
        threads = [threading.Thread(target=read, args=(index,)) for index in range(READERS)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        taken = []
        late: list[Any] = []
        for call in (lambda: late.append(engine.submit([5] * 8, greedy(80))), lambda: engine.abort(late[0])):
            steps, begun = steps_of(engine), time.perf_counter()
            call()
            seconds = time.perf_counter() - begun
            if hasattr(engine, "loop") and call.__code__.co_names[-1] != "abort":  # until it runs
                while not late[0].times.admitted:
                    time.sleep(1e-4)
            taken.append((seconds, steps_of(engine) - steps))
        while not late[0].finished:
            time.sleep(1e-4)
        taken[1] = (taken[1][0], max(taken[1][1], steps_of(engine) - steps))
        for thread in threads:
            thread.join()
    (submit, submit_steps), (abort, abort_steps) = taken
    return {
        "gap between tokens p99 / max": f"{quantile(gaps, 0.99) * 1e3:,.0f} / {max(gaps) * 1e3:,.0f} ms",
        "first token p50 / max": f"{quantile(firsts, 0.5) * 1e3:,.0f} / {max(firsts) * 1e3:,.0f} ms",
        "late submit / abort": f"{submit * 1e3:,.2f} / {abort * 1e3:,.2f} ms, {submit_steps} / {abort_steps} steps",
    }


def asyncio_streams(count: int = 256, tokens: int = 80) -> dict[str, str]:
    """Tasks of one loop that read, and how late a timer of that loop is at most."""
    engine = engine_over(stubbed())
    name = f"{count} asyncio streams: loop held longest"
    if not hasattr(engine, "astream"):
        return {name: "-"}
    late: list[float] = []

    async def read(index: int) -> int:
        return sum(
            [len(output.token_ids) async for output in engine.astream(engine.submit([5, 9 + index], greedy(tokens)))]
        )

    async def watch() -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0)
            late.append(time.perf_counter() - begun)
            await asyncio.sleep(0.001)

    async def everything() -> list[int]:
        watching = asyncio.create_task(watch())
        reading = []
        for index in range(count):  # they come one by one: submitting is their own work
            reading.append(asyncio.create_task(read(index)))
            await asyncio.sleep(0)
        read_by_all = await asyncio.gather(*reading)
        watching.cancel()
        return read_by_all

    begun = time.perf_counter()
    with at_work(engine):
        assert asyncio.run(everything()) == [tokens] * count
    seconds = time.perf_counter() - begun
    return {
        name: f"{max(late) * 1e3:.1f} ms (p99 {quantile(late, 0.99) * 1e3:.1f} ms)",
        f"{count} asyncio streams: a step": f"{seconds / steps_of(engine) * 1e3:.1f} ms",
    }


def bookkeeping(count: int = 256, tokens: int = 128) -> dict[str, str]:
    """A step less what network and sampler take, for each token of it."""
    model = stubbed(0)
    engine, stub = engine_over(model), model.__dict__["step_logits"]
    sample, sampling = engine.sampler.sample, [0.0]

    def timed(*arguments: Any) -> Any:
        begun = time.thread_time()
        try:
            return sample(*arguments)
        finally:
            sampling[0] += time.thread_time() - begun

    engine.sampler.sample = timed
    rng = random.Random(0)
    requests = [engine.submit([rng.randrange(3, VOCABULARY) for _ in range(32)], greedy(tokens)) for _ in range(count)]
    while any(request.num_output < 4 for request in requests):
        engine.step()
    stub.spent = sampling[0] = 0.0
    costs, done = [], engine.stats().output_tokens
    while not requests[0].finished:
        before, begun = stub.spent + sampling[0], time.thread_time()
        engine.step()
        seconds = time.thread_time() - begun - (stub.spent + sampling[0] - before)
        now = engine.stats().output_tokens
        costs.append(seconds / (now - done))
        done = now
        for request in requests:
            request.outputs.clear()
    median, best = quantile(costs, 0.5) * 1e6, min(costs) * 1e6
    return {f"bookkeeping at {count} running, a token (median / best step)": f"{median:.1f} / {best:.1f} us"}


def admission(gaps: int = 60_000) -> dict[str, str]:
    """One more request where every second block of the pool is taken."""
    from chatglm.engine.blocks import BlockManager
    from chatglm.engine.request import Request
    from chatglm.engine.scheduler import Scheduler

    blocks = BlockManager(2 * gaps, 16)
    for block in [blocks._take(None) for _ in range(2 * gaps)][::2]:
        blocks._release(block)
    scheduler = Scheduler(blocks, 512, 256)
    taken = []
    for index in range(20):
        request = Request([7, index, *range(100)], greedy(1), frozenset())
        request.max_total = 2000
        scheduler.add(request)
        begun = time.thread_time()
        pieces = scheduler._admit_waiting(512)
        taken.append(time.thread_time() - begun)
        assert len(pieces) == 1
    return {f"admission with {gaps:,} gaps": f"{quantile(taken, 0.5) * 1e3:.3f} ms"}


def waiting(count: int = 10_000) -> dict[str, str]:
    """Submit and abort where many wait already."""
    engine = engine_over(stubbed(0), max_running=64)
    rng = random.Random(0)
    prompts = [[rng.randrange(3, VOCABULARY) for _ in range(64)] for _ in range(count + 500)]
    requests = [engine.submit(prompt, greedy(64)) for prompt in prompts[:count]]
    for _ in range(3):
        engine.step()
    begun = time.thread_time()
    late = [engine.submit(prompt, greedy(64)) for prompt in prompts[count:]]
    submit = (time.thread_time() - begun) / len(late)
    begun = time.thread_time()
    for request in requests[-500:]:
        engine.abort(request)
    abort = (time.thread_time() - begun) / 500
    return {f"submit / abort at {count:,} waiting": f"{submit * 1e6:.0f} / {abort * 1e6:.0f} us"}


def scoring(count: int = 200, shared: int = 1500) -> dict[str, str]:
    """Continuations of one text: one by one, and all together where that can be."""
    rng = random.Random(0)
    prompt = [rng.randrange(3, VOCABULARY) for _ in range(shared)]
    pairs = [(prompt, [rng.randrange(3, VOCABULARY) for _ in range(rng.randrange(1, 12))]) for _ in range(count)]
    rows = {}
    for name, model in (("stub", stubbed()), ("4 layers of 512 on the CPU", network(layers=4, hidden=512))):
        seconds, values = [], []
        for together in (False, True):
            engine = engine_over(model, max_batch_tokens=512, max_prompt_tokens=None, kv_memory=400_000_000)
            if together and not hasattr(engine, "score_many"):
                continue
            begun = time.perf_counter()
            scores = engine.score_many(pairs) if together else [engine.score(*pair) for pair in pairs]
            seconds.append(f"{time.perf_counter() - begun:.2f} s")
            values.append([score.logprob for score in scores])
        worst = max(abs(a - b) for a, b in zip(values[0], values[-1], strict=True))
        told = " / ".join([*seconds, "-"][:2]) + (f"; largest difference {worst:.1g}" if len(values) > 1 else "")
        rows[f"score of {count} continuations of {shared:,} tokens, {name}: one by one / together"] = told
    return rows


MEASURES: dict[str, Callable[[], dict[str, str]]] = {
    "readers": readers, "asyncio": asyncio_streams, "bookkeeping": bookkeeping, "admission": admission,
    "waiting": waiting, "scoring": scoring,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=SOURCE, help="the src folder to measure (default: this one's)")
    parser.add_argument("measures", nargs="*", choices=[[], *MEASURES], default=[], help="default: all")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.source.resolve()))
    import chatglm

    print(f"| measure ({Path(chatglm.__file__).parents[1]}) | |\n|---|---|", flush=True)
    for name in arguments.measures or MEASURES:
        for measure, value in MEASURES[name]().items():
            print(f"| {measure} | {value} |", flush=True)


if __name__ == "__main__":
    main()
