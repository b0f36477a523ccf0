"""What a decode step costs in the engine, beside what its matrix products and attention cost alone.

    python benchmarks/decode.py [--layers 4] [--dtype bfloat16] [--contexts 128 2048 8192]

Random weights with the 6B widths. Prints, for each context length: the engine's step, the sum of its linears and of
its attention calls measured alone in the same run, their ratio, and transformers' `generate()` loop on the same network
(one forward pass with a dynamic cache). Then the share of speed kept against the shortest context, a second chat turn
against the first, and prompt lookup on an editing task.
"""

import argparse
import time
from typing import Any

import torch
from common import hardware, median_seconds, six_b
from transformers import DynamicCache

from chatglm.engine.attention import attend_sdpa
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import SamplingParams


def decoding(engine: Engine, contexts: int, batch: int, steps: int) -> float:
    """Median seconds of a step that decodes `batch` requests of `contexts` tokens."""
    generator = torch.Generator().manual_seed(contexts)
    params = SamplingParams(temperature=0, max_tokens=steps + 4)
    requests = [
        engine.submit(torch.randint(3, 60000, (contexts,), generator=generator).tolist(), params) for _ in range(batch)
    ]
    while any(request.num_pending != 1 for request in requests):
        engine.step()
    seconds = median_seconds(engine.step, repeats=steps)
    for request in requests:
        engine.abort(request)
    return seconds


def linears_alone(model: Any, rows: int, repeats: int) -> float:
    """Median seconds of all linears of the network on `rows` rows."""
    layers = [module for module in model.modules() if hasattr(module, "in_features")]
    inputs = {size: torch.randn(rows, size, dtype=model.dtype) for size in {layer.in_features for layer in layers}}

    @torch.inference_mode()
    def run() -> None:
        for layer in layers:
            layer(inputs[layer.in_features])

    return median_seconds(run, repeats)


def attention_alone(model: Any, context: int, rows: int, repeats: int) -> float:
    """Median seconds of one attention call per layer and row over `context` cached tokens."""
    config = model.config
    query = torch.randn(1, config.num_attention_heads, config.kv_channels, dtype=model.dtype)
    shape = (config.num_layers, context, config.num_key_value_heads, config.kv_channels)
    keys, values = (torch.randn(shape, dtype=model.dtype) for _ in range(2))

    @torch.inference_mode()
    def run() -> None:
        for layer in range(config.num_layers):
            for _ in range(rows):
                attend_sdpa(query, [(keys[layer], values[layer])], 0.088)

    return median_seconds(run, repeats)


def transformers_step(model: Any, context: int, repeats: int) -> float:
    """Median seconds of one forward pass of one token over a dynamic cache, as `generate()` makes it."""
    cache = DynamicCache(config=model.config)
    ids = torch.randint(3, 60000, (1, context))

    @torch.inference_mode()
    def run() -> None:
        model(torch.tensor([[5]]), past_key_values=cache, logits_to_keep=1).logits.argmax(-1).tolist()

    with torch.inference_mode():
        for piece in ids.split(512, dim=1):
            model(piece, past_key_values=cache, logits_to_keep=1)
    return median_seconds(run, repeats)


def first_token(engine: Engine, prompt: list[int]) -> float:
    start = time.perf_counter()
    stream = engine.stream(engine.submit(prompt, SamplingParams(temperature=0, max_tokens=2)))
    next(stream)
    seconds = time.perf_counter() - start
    stream.close()
    return seconds


def second_turn(engine: Engine, history: int) -> tuple[float, float]:
    """Time to the first token of a turn after `history` tokens: never seen, and continued."""
    prompt = torch.randint(3, 60000, (history,)).tolist()
    return first_token(engine, prompt), first_token(engine, [*prompt, *range(100, 120)])


def editing(model: Any, draft: Any) -> tuple[float, tuple[int, ...]]:
    """Tokens/s while the model is made to copy 80 % of its prompt, by a bias towards the next token of the text."""
    text = torch.randint(3, 60000, (160,), generator=torch.Generator().manual_seed(1)).tolist()
    answer = [token if index % 5 else 7 for index, token in enumerate(text[:128])]

    def copies(output_ids: Any, logits: torch.Tensor) -> None:
        logits[answer[min(len(output_ids), len(answer) - 1)]] += 1000

    engine = Engine(model, EngineConfig())
    start = time.perf_counter()
    done = engine.generate([text], SamplingParams(temperature=0, max_tokens=len(answer), draft=draft, hook=copies))[0]
    return len(done.token_ids) / (time.perf_counter() - start), done.token_ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 2048, 8192])
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()
    model = six_b(options.layers, getattr(torch, options.dtype))
    engine = Engine(model, EngineConfig(prefix_cache=False))
    print(hardware())
    print(
        f"6B widths, {options.layers} of 28 layers, {options.dtype}; medians of {options.steps} steps, milliseconds\n"
    )
    print("| context | batch | engine step | linears + attention alone | ratio | transformers step | ratio |")
    print("|---|---|---|---|---|---|---|")
    kept: dict[int, float] = {}
    for batch in (1, 8):
        for context in options.contexts if batch == 1 else options.contexts[:1]:
            step = decoding(engine, context, batch, options.steps)
            alone = linears_alone(model, batch, options.steps)
            alone += attention_alone(model, context, batch, options.steps)
            peer = transformers_step(model, context, options.steps) if batch == 1 else float("nan")
            print(
                f"| {context} | {batch} | {step * 1e3:.1f} | {alone * 1e3:.1f} | {step / alone:.3f} "
                f"| {peer * 1e3:.1f} | {peer / step:.2f} |"
            )
            if batch == 1:
                kept[context] = step
    shortest = kept[options.contexts[0]]
    for context in options.contexts[1:]:
        print(
            f"\nspeed kept at context {context} against {options.contexts[0]}: {shortest / kept[context]:.0%}", end=""
        )
    print()
    fresh, continued = second_turn(Engine(model, EngineConfig()), 2000)
    print(f"first token after 2,000 tokens: new {fresh:.2f} s, second turn {continued:.2f} s, {continued / fresh:.1%}")
    plain, plain_ids = editing(model, None)
    guessed, guessed_ids = editing(model, "lookup")
    same = "identical" if plain_ids == guessed_ids else "DIFFERENT"
    print(
        f"editing task: plain {plain:.2f} tok/s, prompt lookup {guessed:.2f} tok/s, x{guessed / plain:.2f}, {same} text"
    )


if __name__ == "__main__":
    main()
