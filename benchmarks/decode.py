"""What the engine costs and what it saves: decoding, long contexts, batches, second turns, prompt lookup.

    python benchmarks/decode.py [--scheme int4] [--layers 28] [--measure overhead contexts batch turn editing]

6B widths with random weights: "bfloat16" or "float32", or packed by a scheme ("int4", "int8", ...). Everything that
forms a ratio is measured in turns, since other tenants of a machine change its memory rate within seconds; medians.

overhead   the engine's step beside its matrix products and attention alone: for packed weights the one native call
           that holds all layers, and that of the output layer; else the linears and attention calls one by one, and
           beside them a forward pass of transformers' `generate()` over a dynamic cache
contexts   the speed kept at longer contexts
batch      tokens/s of several requests against one
turn       time to the first token of a chat's second turn after 2,000 tokens, against the first turn's
editing    prompt lookup on a task that copies 80 % of the prompt, against plain decoding

Where only the length of a context counts, its keys and values are random numbers and not computed.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import SCHEMES, hardware, model_of
from transformers import DynamicCache

from chatglm import native
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import Request, SamplingParams, Status
from chatglm.engine.scheduler import Piece
from chatglm.quant.fused_layers import FusedForward, as_native

MEASURES = ("overhead", "contexts", "batch", "turn", "editing")
GREEDY = SamplingParams(temperature=0, ignore_eos=True)


def engine_of(model: Any, tokens: int, **options: Any) -> Engine:
    """An engine with room for so many tokens; half-precision keys and values, as `model.chat` has them."""
    config = model.config
    per_token = 2 * config.num_layers * config.num_key_value_heads * config.kv_channels * 2
    kv_dtype = "float16" if model.dtype == torch.float32 else "model"
    return Engine(model, EngineConfig(kv_dtype=kv_dtype, kv_memory=per_token * (tokens + 16), **options))


def in_turns(runs: Sequence[Callable[[], Any]], rounds: int, each: int = 1) -> list[float]:
    """Median seconds of each of some functions, `each` calls of one after another, then the next."""
    return [statistics.median(seconds) for seconds in timed_in_turns(runs, rounds, each)]


def timed_in_turns(runs: Sequence[Callable[[], Any]], rounds: int, each: int = 1) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds + 1):  # the first one warms up
        for seconds, run in zip(times, runs, strict=True):
            for _ in range(each):
                start = time.perf_counter()
                run()
                if turn:
                    seconds.append(time.perf_counter() - start)
    return times


def parked(engine: Engine, context: int) -> Request:
    """A request with `context` tokens in the cache, random ones, ready to decode."""
    request = engine.submit(torch.randint(3, 60000, (context,)).tolist(), GREEDY)
    del engine.scheduler.waiting[request]
    assert engine.blocks.extend(request, context)
    request.num_computed, request.status = context - 1, Status.RUNNING
    slots = torch.tensor(engine.runner.layouts.slots(request, 0, context))
    config = engine.model.config
    for layer in range(config.num_layers):
        shape = (context, config.num_key_value_heads, config.kv_channels)
        engine.runner.cache.write(layer, slots, torch.randn(shape), torch.randn(shape))
    return request


def steps_of(engine: Engine, requests: Sequence[Request]) -> Callable[[], Any]:
    """A function that decodes a token of each of some parked requests, and of nobody else."""

    def run() -> None:
        engine.scheduler.running[:] = requests
        engine.step()

    return run


def alone(engine: Engine, request: Request) -> Callable[[], Any]:
    """The matrix products and attention of a step of one request, without anything around them."""
    model, runner = engine.model, engine.runner
    assert engine.blocks.extend(request, len(request.token_ids))
    batch = runner._batch([Piece(request, 1)])
    stack: Any = model.transformer.encoder
    fused = stack.__dict__.get("forward")
    if isinstance(fused, FusedForward):
        cosines, sines = (torch.randn(1, model.config.rotary_dim // 2) for _ in range(2))
        hidden, stream = (torch.randn(1, model.config.hidden_size) for _ in range(2))
        tables, head = native.batch_of(batch), as_native(model.transformer.output_layer)
        layers, caches = fused.layers, fused.ready(batch)
        assert layers is not None
        assert caches is not None

        def run_fused() -> None:
            native.layers_forward(layers, caches, tables, cosines, sines, stream)
            native.linear(head, hidden)

        return run_fused
    config = model.config
    heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    states = [torch.randn(1, count, config.kv_channels, dtype=model.dtype) for count in heads]
    linears = [module for module in model.modules() if hasattr(module, "in_features")]
    inputs = {size: torch.randn(1, 1, size, dtype=model.dtype) for size in {one.in_features for one in linears}}

    @torch.inference_mode()
    def run() -> None:
        for linear in linears:
            linear(inputs[linear.in_features])
        for layer in range(config.num_layers):
            runner.filling.attend(*states, layer, batch, 0.088)

    return run


def transformers_step(model: Any, context: int) -> Callable[[], Any]:
    """One forward pass of one token over a dynamic cache, as `generate()` makes it."""
    cache = DynamicCache(config=model.config)
    config = model.config
    for layer in range(config.num_layers):
        shape = (1, config.num_key_value_heads, context, config.kv_channels)
        cache.update(torch.randn(shape, dtype=model.dtype), torch.randn(shape, dtype=model.dtype), layer)

    @torch.inference_mode()
    def run() -> None:
        model(torch.tensor([[5]]), past_key_values=cache, logits_to_keep=1).logits.argmax(-1).tolist()

    return run


def overhead(model: Any, options: argparse.Namespace) -> None:
    engine = engine_of(model, sum(options.contexts) + 1000, prefix_cache=False)
    dense = model.dtype != torch.float32 or options.scheme == "float32"
    print(
        "| context | engine step, ms | products and attention alone, ms | difference, ms | ratio | transformers, ms |"
    )
    print("|---|---|---|---|---|---|")
    for context in options.contexts:
        request = parked(engine, context)
        steps = steps_of(engine, [request])
        steps()
        runs = [steps, alone(engine, request), *([transformers_step(model, context)] if dense else [])]
        times = timed_in_turns(runs, options.rounds)
        step, sum_, *peer = map(statistics.median, times)
        # The memory rate drifts by more than is looked for: what one round differs in is seen within the round.
        beside = statistics.median(one - other for one, other in zip(times[0], times[1], strict=True))
        peers = f"{peer[0] * 1e3:.2f}" if peer else "-"
        cells = (f"{step * 1e3:.2f}", f"{sum_ * 1e3:.2f}", f"{beside * 1e3:.2f}", f"{1 + beside / sum_:.3f}", peers)
        print(f"| {context} | {' | '.join(cells)} |", flush=True)
        engine.abort(request)


def contexts(model: Any, options: argparse.Namespace) -> None:
    engine = engine_of(model, sum(options.contexts) + 1000, prefix_cache=False)
    runs = [steps_of(engine, [parked(engine, context)]) for context in options.contexts]
    seconds = in_turns(runs, options.rounds, each=2)
    for context, one in zip(options.contexts, seconds, strict=True):
        print(f"decode @{context}: {1 / one:.2f} tok/s, {seconds[0] / one:.1%} of the speed at {options.contexts[0]}")


def batch(model: Any, options: argparse.Namespace) -> None:
    engine = engine_of(model, (options.batch + 1) * 400, prefix_cache=False)
    requests = [parked(engine, 128) for _ in range(options.batch + 1)]
    single, many = in_turns([steps_of(engine, requests[:1]), steps_of(engine, requests[1:])], options.rounds, each=2)
    total = options.batch / many
    print(f"decode @128: 1 request {1 / single:.2f}, {options.batch} {total:.2f} tok/s, x{total * single:.2f}")


def first_token(engine: Engine, prompt: list[int]) -> float:
    start = time.perf_counter()
    stream = engine.stream(engine.submit(prompt, SamplingParams(temperature=0, max_tokens=2)))
    next(stream)
    seconds = time.perf_counter() - start
    stream.close()
    return seconds


def turn(model: Any, options: argparse.Namespace) -> None:
    engine = engine_of(model, 8192)
    for _ in range(2):
        prompt = torch.randint(3, 60000, (2000,)).tolist()
        new, second = first_token(engine, prompt), first_token(engine, [*prompt, *range(100, 120)])
        print(
            f"first token after 2,000 tokens: new {new:.2f} s, second turn {second:.3f} s, {second / new:.1%}",
            flush=True,
        )


def copied(engine: Engine, draft: Any) -> tuple[float, tuple[int, ...]]:
    """Seconds while the model is made to copy 80 % of its prompt, by a bias towards the next token of the text."""
    text = torch.randint(3, 60000, (160,), generator=torch.Generator().manual_seed(1)).tolist()
    answer = [token if index % 5 else 7 for index, token in enumerate(text[:128])]

    def copies(output_ids: Any, logits: torch.Tensor) -> None:
        logits[answer[min(len(output_ids), len(answer) - 1)]] += 1000

    params = SamplingParams(temperature=0, max_tokens=len(answer), ignore_eos=True, draft=draft, hook=copies)
    request = engine.submit(text, params)
    while request.num_output == 0:
        engine.step()
    start = time.perf_counter()
    engine.wait(request)
    return time.perf_counter() - start, tuple(request.output_ids)


def editing(model: Any, options: argparse.Namespace) -> None:
    engine = engine_of(model, 1024)
    rounds = [(copied(engine, None), copied(engine, "lookup")) for _ in range(3)]
    plain, guessed = (statistics.median(one[which][0] for one in rounds) for which in (0, 1))
    same = "identical" if len({ids for one in rounds for _, ids in one}) == 1 else "DIFFERENT"
    count = len(rounds[0][0][1]) - 1
    print(
        f"editing task: plain {count / plain:.2f} tok/s, prompt lookup {count / guessed:.2f} tok/s, "
        f"x{plain / guessed:.2f}, {same} text"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scheme", default="bfloat16", help=SCHEMES)
    parser.add_argument("--layers", type=int, help="28 packed, else 4")
    parser.add_argument("--measure", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 2048, 8192])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    layers = options.layers or (4 if options.scheme in ("bfloat16", "float32") else 28)
    torch.manual_seed(0)
    print(hardware(), flush=True)
    model = model_of(options.scheme, layers)
    print(f"6B widths, {layers} of 28 layers, {options.scheme}; medians of {options.rounds} rounds\n", flush=True)
    for name in options.measure:
        {"overhead": overhead, "contexts": contexts, "batch": batch, "turn": turn, "editing": editing}[name](
            model, options
        )
        print(flush=True)


if __name__ == "__main__":
    main()
