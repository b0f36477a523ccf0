"""Many requests at once: total tokens/s and waiting times, against the same requests one after another.

    python benchmarks/batching.py [--model FOLDER | --scheme int4 --layers 28] [--requests 16] [--rate 4]

Requests arrive at random (exponential gaps, `--rate` a second) with prompts of 16 to 256 tokens that share a system
prompt of 64 tokens. The peer is the same engine taking one request at a time, in the same run. Without `--model` the
network has the 6B widths, `--layers` deep, and random weights, in a dtype or packed by a scheme.
"""

import argparse
import random
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from common import SCHEMES, hardware, model_of

from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import Request, SamplingParams
from chatglm.model.network import ChatGLMForConditionalGeneration


@dataclass
class Job:
    """One request of the load: when it comes, what it asks, and when its first and last token came."""

    arrival: float
    prompt_ids: list[int]
    request: Request | None = None
    first: float = 0.0
    last: float = 0.0
    outputs: int = 0


@dataclass
class Result:
    seconds: float
    tokens: int
    first_token: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)


def jobs(count: int, rate: float, vocab: int) -> list[Job]:
    generator = random.Random(0)
    shared = [generator.randrange(3, vocab) for _ in range(64)]
    now, made = 0.0, []
    for _ in range(count):
        now += generator.expovariate(rate)
        made.append(Job(now, [*shared, *(generator.randrange(3, vocab) for _ in range(generator.randrange(16, 257)))]))
    return made


def run(model: Any, load: list[Job], max_tokens: int, max_running: int, prompt_tokens: int | None) -> Result:
    """Play the arrivals in real time against a fresh engine."""
    kv_dtype = "float16" if model.dtype == torch.float32 else "model"
    engine = Engine(model, EngineConfig(max_running=max_running, kv_dtype=kv_dtype, max_prompt_tokens=prompt_tokens))
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    start, waiting, active = time.perf_counter(), list(load), []
    while waiting or active:
        now = time.perf_counter() - start
        while waiting and waiting[0].arrival <= now:
            job = waiting.pop(0)
            job.request = engine.submit(job.prompt_ids, params)
            active.append(job)
        if not active:
            time.sleep(max(0.0, waiting[0].arrival - now))
            continue
        engine.step()
        active = [job for job in active if not note(job, time.perf_counter() - start)]
    seconds = time.perf_counter() - start
    result = Result(seconds, sum(job.outputs for job in load))
    result.first_token = [job.first - job.arrival for job in load]
    result.between = [(job.last - job.first) / max(1, job.outputs - 1) for job in load]
    return result


def note(job: Job, now: float) -> bool:
    """Read what a request has gained; whether it is finished."""
    assert job.request is not None
    while job.request.outputs:
        output = job.request.outputs.popleft()
        if output.token_ids and job.outputs == 0:
            job.first = now
        job.outputs += len(output.token_ids)
        job.last = now
    return job.request.finished


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--scheme", default="bfloat16", help=f"{SCHEMES}; of --model only a dtype")
    parser.add_argument("--prompt-tokens", type=int, help="EngineConfig.max_prompt_tokens")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--rate", type=float, default=4.0)
    parser.add_argument("--max-tokens", type=int, default=32)
    options = parser.parse_args()
    print(hardware())
    if options.model:
        dtype = getattr(torch, options.scheme)
        model = ChatGLMForConditionalGeneration.from_pretrained(options.model, dtype=dtype).eval()
    else:
        model = model_of(options.scheme, options.layers)
    print(f"{options.requests} requests, {options.rate} a second, {options.max_tokens} tokens each, {options.scheme}\n")
    print("| at once | tokens/s | first token, median | 95 % | between tokens, median |")
    print("|---|---|---|---|---|")
    totals = {}
    for at_once in (1, 16):
        load = jobs(options.requests, options.rate, int(model.config.vocab_size) - 20)
        result = run(model, load, options.max_tokens, at_once, options.prompt_tokens)
        totals[at_once] = result.tokens / result.seconds
        median = statistics.median(result.first_token)
        print(
            f"| {at_once} | {totals[at_once]:.1f} | {median:.2f} s | {quantile(result.first_token, 0.95):.2f} s "
            f"| {statistics.median(result.between) * 1e3:.0f} ms |"
        )
    print(f"\ntogether against one after another: x{totals[16] / totals[1]:.2f} tokens/s")


if __name__ == "__main__":
    main()
