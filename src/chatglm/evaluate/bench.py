"""`chatglm bench`: how fast a model runs on this machine, and how near to what its memory allows.

Decoding reads every weight for each step, so no step can be faster than reading them: that is the limit. Medians of
several rounds, the memory rate measured in the same rounds, for other programs change both within seconds.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from chatglm.errors import UsageError
from chatglm.words import Words, choose

ROUNDS = 5
_READ = 2**28  # bytes read to measure the rate


@dataclass(frozen=True, slots=True)
class Speed:
    """A rate in tokens a second; `limit` is what the memory allows, where that is known."""

    count: int  # requests at once
    tokens: int  # of their prompts
    rate: float
    limit: float | None = None


def start_bench(options: argparse.Namespace) -> int:
    """Run `chatglm bench` with parsed options.

    Raises:
        UsageError: sizes that the model has no room for; whatever loading raises.
    """
    from chatglm.loading import load_as

    batches = _batches(options.batch)
    began = time.perf_counter()
    model, tokenizer = load_as(options)
    loaded = time.perf_counter() - began
    found = {
        "model": str(options.model or "tiny-glm (embedded)"),
        "hardware": hardware(model),
        "load_seconds": round(loaded, 2),
        **measured(model, tokenizer, options.prompt, options.new, batches),
    }
    sys.stdout.write(json.dumps(found, indent=1) + "\n" if options.json else as_table(found, choose(options.lang)))
    return 0


def measured(model: Any, tokenizer: Any, prompt: int, new: int, batches: list[int]) -> dict[str, Any]:
    """All figures of a model.

    Args:
        prompt: tokens of a prompt. new: tokens decoded in a round. batches: requests decoded at once.

    Raises:
        UsageError: the context is shorter than that.
    """
    from chatglm.engine.memory import memory_for
    from chatglm.own_engine import engine_for

    room = prompt + ROUNDS * (new + 1) + 8
    context = int(model.config.max_position_embeddings)
    if min(prompt, new, *batches) < 1 or room > context:
        raise UsageError(
            f"--prompt {prompt} and {ROUNDS} rounds of --new {new} take {room} tokens; they must be at least 1 and "
            f"fit into the context, {context}"
        )
    most = max(batches)
    engine = engine_for(
        model, tokenizer, max_running=most, kv_memory=most * memory_for(model, room), prefix_cache=False
    )  # fmt: skip
    size = weight_bytes(model)
    speeds = [_prompt(engine, prompt)]
    rates: list[float] = []
    for count in batches:
        decoded, rate = _decode(engine, prompt, new, count)
        rates += [rate] if rate else []
        speeds.append(Speed(count, prompt, decoded, rate * count / size if rate else None))
    return {
        "weight_bytes": size,
        "peak_bytes": _peak(),
        "read_bytes_per_second": round(statistics.median(rates)) if rates else None,
        "prompt": asdict(speeds[0]),
        "decode": [asdict(speed) for speed in speeds[1:]],
    }


def as_table(found: dict[str, Any], words: Words) -> str:
    """The figures as a Markdown table."""
    rows = [words("bench_columns").split("|"), ["---"] * 4, [words("bench_load"), f"{found['load_seconds']} s", "", ""]]
    peak = f"; {found['peak_bytes'] / 1e9:.2f} GB" if found["peak_bytes"] else ""
    rows.append([words("bench_weights"), f"{found['weight_bytes'] / 1e9:.3f} GB{peak}", "", ""])
    if found["read_bytes_per_second"]:
        rows.append([words("bench_rate"), f"{found['read_bytes_per_second'] / 1e9:.1f} GB/s", "", ""])
    rows.append(_row(words("bench_prompt", tokens=found["prompt"]["tokens"]), found["prompt"]))
    rows += [
        _row(words("bench_decode", **{"count": one["count"], "tokens": one["tokens"]}), one) for one in found["decode"]
    ]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{found['model']}; {found['hardware']}\n\n{table}\n"


def hardware(model: Any) -> str:
    """One line: processor or card, threads, kernels."""
    import torch

    from chatglm import native

    device = model.device
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    kernels = f"{native.level()}, {native.num_threads()} threads" if native.available() else "torch's kernels"
    return f"{device.type}, {torch.get_num_threads()} threads of torch {torch.__version__}; {kernels}"


def weight_bytes(model: Any) -> int:
    """Bytes that a step of decoding reads: all weights but the embedding, of which it looks up rows."""
    embedding = model.get_input_embeddings()
    aside = (
        {id(tensor) for tensor in (*embedding.parameters(), *embedding.buffers())} if embedding is not None else set()
    )
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.nbytes for key, tensor in tensors.items() if key not in aside)


def _row(name: str, speed: dict[str, Any]) -> list[str]:
    limit = speed["limit"]
    told = [f"{limit:,.1f} tokens/s", f"{100 * speed['rate'] / limit:.0f} %"] if limit else ["", ""]
    return [name, f"{speed['rate']:,.1f} tokens/s", *told]


def _prompt(engine: Any, length: int) -> Speed:
    times = []
    for number in range(ROUNDS):
        with _requests(engine, length, 1, 1, number) as requests:
            began = time.perf_counter()
            engine.wait(requests[0])
            times.append(time.perf_counter() - began)
    return Speed(1, length, round(length / statistics.median(times), 1))


def _decode(engine: Any, length: int, new: int, count: int) -> tuple[float, float | None]:
    """Tokens a second of so many requests, and bytes a second that can be read."""
    times, rates = [], []
    with _requests(engine, length, count, ROUNDS * (new + 1) + 4, 99) as requests:
        while any(request.num_output == 0 for request in requests):
            engine.step()
        for _ in range(ROUNDS):
            rates.append(_read_rate(engine.model))
            engine.step()
            began = time.perf_counter()
            for _ in range(new):
                engine.step()
            times.append((time.perf_counter() - began) / new)
    known = [rate for rate in rates if rate is not None]
    return round(count / statistics.median(times), 1), statistics.median(known) if known else None


@contextmanager
def _requests(engine: Any, length: int, count: int, new: int, seed: int) -> Iterator[list[Any]]:
    """Requests of random tokens, handed in; ended afterwards."""
    import torch

    from chatglm.engine.request import SamplingParams

    draw = torch.Generator().manual_seed(seed)
    params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
    most = engine.config.num_tokens or int(engine.model.config.vocab_size)
    prompts = [torch.randint(3, most, (length,), generator=draw).tolist() for _ in range(count)]
    requests = [engine.submit(prompt, params) for prompt in prompts]
    try:
        yield requests
    finally:
        for request in requests:
            engine.abort(request)


def _read_rate(model: Any) -> float | None:
    """Bytes a second that all threads read from memory; None where nothing here can tell."""
    from chatglm import native

    if model.device.type == "cpu" and native.available():
        return float(native.read_rate(_READ, repeats=3))
    return None


def _peak() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _batches(text: str) -> list[int]:
    try:
        batches = [int(part) for part in text.split(",")]
    except ValueError:
        batches = []
    if not batches or min(batches) < 1 or max(batches) > 512:
        raise UsageError(f"--batch is {text!r}; it must be whole numbers from 1 to 512 with commas between")
    return batches
