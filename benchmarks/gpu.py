"""Decoding and prefill on a GPU, against what its memory and its matrix units can do, and against transformers.

    python benchmarks/gpu.py [--layers 28] [--context 512] [--batch 64] [--prefill 8192] [--int4] [--compile]

Random weights with the 6B shapes, bf16. Measured in the same run: the rate of a copy in memory, the rate of a large
matrix product, and transformers' `GlmForCausalLM` with the same weights, a static cache and `torch.compile`. The table
has our numbers as shares of those, beside the goals.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from common import hardware, six_b

from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import SamplingParams
from chatglm.folders.stock_glm import glm_config

WEIGHTS_READ = 6.24e9  # parameters a token of the 28-layer model reads: all but the input embedding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--context", type=int, default=512, help="prompt tokens of each request")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--prefill", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=128, help="decode steps that are timed")
    parser.add_argument("--int4", action="store_true", help="also decode with INT4 weights")
    parser.add_argument("--compile", action="store_true", help="pass decode steps through torch.compile")
    parser.add_argument("--no-peer", action="store_true", help="leave transformers out")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(
            f"benchmarks/gpu.py needs an NVIDIA GPU; torch {torch.__version__} (CUDA {torch.version.cuda}) sees none"
        )
    run(options)


def run(options: argparse.Namespace) -> None:
    """Print the table."""
    copy, matrix = copy_rate(), matrix_rate()
    print(hardware())
    print(f"6B shapes, {options.layers} of 28 layers; copy {copy / 1e9:.0f} GB/s, bf16 matrix {matrix / 1e12:.0f} TF/s")
    print("\n| what | ours | measured against | share | goal |\n|---|---|---|---|---|")
    model = six_b(options.layers, torch.bfloat16, "cuda")
    size = sum(p.numel() for name, p in model.named_parameters() if "word_embeddings" not in name)
    settings = {"compile": options.compile, "prefix_cache": False, "max_batch_tokens": options.prefill}
    single = decode_rate(model, settings, 1, options)
    row("decode, batch 1", single, f"copy: {copy / (2 * size):.1f} tok/s", single * 2 * size / copy, "85 %")
    many = decode_rate(model, settings, options.batch, options)
    prefill = prefill_rate(model, settings, options.prefill)
    work = 2 * size + 4 * options.layers * 4096 * options.prefill / 2  # flops a token: weights, half of the square
    best = matrix / work
    row(f"prefill {options.prefill}", prefill, f"matrix: {best:.0f} tok/s", prefill / best, "55 %")
    if not options.no_peer:
        peer = transformers_rate(stock_of(model), options)
        row("decode, batch 1", single, f"transformers: {peer:.1f} tok/s", single / peer, "")
        row(f"decode, batch {options.batch}", many, f"transformers, batch 1: {peer:.1f} tok/s", many / peer, "10 x")
    if options.int4:
        model.quantize(4)
        rate = decode_rate(model, settings, 1, options)
        row("decode, batch 1, INT4", rate, f"copy: {2 * copy / size:.1f} tok/s", rate * size / 2 / copy, "60 %")


def row(what: str, rate: float, against: str, share: float, goal: str) -> None:
    print(f"| {what} | {rate:.1f} tok/s | {against} | {share:.2f} | {goal} |")


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Mean time of a call on the GPU, after one that does not count."""
    call()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def copy_rate() -> float:
    """Bytes/s read plus written by a copy of 2 GiB."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source), 10)


def matrix_rate(size: int = 8192) -> float:
    """Flops/s of a bf16 matrix product."""
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds(lambda: left @ right, 10)


def decode_rate(model: Any, settings: dict[str, Any], batch: int, options: argparse.Namespace) -> float:
    """Tokens/s of all requests together while `batch` of them decode."""
    engine = Engine(model, EngineConfig(max_running=max(batch, 1), **settings))
    generator = torch.Generator().manual_seed(0)
    params = SamplingParams(temperature=0, max_tokens=options.tokens + 40, ignore_eos=True)
    shape = (batch, options.context)
    prompts = torch.randint(3, 60000, shape, generator=generator).tolist()
    requests = [engine.submit(prompt, params) for prompt in prompts]
    while any(request.num_output < 16 for request in requests):  # prefill, recording, and some steps to warm up
        engine.step()
    torch.cuda.synchronize()
    before, start = sum(request.num_output for request in requests), time.perf_counter()
    for _ in range(options.tokens):
        engine.step()
    torch.cuda.synchronize()
    rate = (sum(request.num_output for request in requests) - before) / (time.perf_counter() - start)
    for request in requests:
        engine.abort(request)
    return rate


def prefill_rate(model: Any, settings: dict[str, Any], length: int) -> float:
    """Prompt tokens/s of one prompt."""
    engine = Engine(model, EngineConfig(max_running=1, **settings))
    prompt = torch.randint(3, 60000, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    call = seconds(lambda: engine.generate([prompt], SamplingParams(temperature=0, max_tokens=1)), 3)
    return length / call


def stock_of(model: Any) -> Any:
    """transformers' own network over the same weights; the tensors are shared, not copied."""
    from transformers import GlmConfig, GlmForCausalLM

    config = GlmConfig(**glm_config(model.config, model.dtype, [2]))
    with torch.device("meta"):
        stock = GlmForCausalLM(config)
    stock.load_state_dict(stock_weights(model), assign=True)
    stock.model.rotary_emb = type(stock.model.rotary_emb)(config=config).to(model.device)
    return stock.eval()


def stock_weights(model: Any) -> dict[str, torch.Tensor]:
    """Our tensors under stock GLM's names."""
    config, ours = model.config, model.state_dict()
    sizes = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
    weights = {
        "model.embed_tokens.weight": ours["transformer.embedding.word_embeddings.weight"],
        "model.norm.weight": ours["transformer.encoder.final_layernorm.weight"],
        "lm_head.weight": ours["transformer.output_layer.weight"],
    }
    names = {
        "input_layernorm.weight": "input_layernorm.weight",
        "post_attention_layernorm.weight": "post_attention_layernorm.weight",
        "self_attention.dense.weight": "self_attn.o_proj.weight",
        "mlp.dense_h_to_4h.weight": "mlp.gate_up_proj.weight",
        "mlp.dense_4h_to_h.weight": "mlp.down_proj.weight",
    }
    for layer in range(config.num_layers):
        here, there = f"transformer.encoder.layers.{layer}.", f"model.layers.{layer}."
        weights |= {there + name: ours[here + own] for own, name in names.items()}
        for kind in ("weight", "bias"):
            fused = ours[f"{here}self_attention.query_key_value.{kind}"]
            parts = fused.split([heads * config.kv_channels for heads in sizes])
            weights |= {f"{there}self_attn.{p}_proj.{kind}": part for p, part in zip("qkv", parts, strict=True)}
    return weights


def transformers_rate(stock: Any, options: argparse.Namespace) -> float:
    """Tokens/s of `generate()` at batch 1 with a static cache, compiled."""
    ids = torch.randint(3, 60000, (1, options.context), device=stock.device)

    def generate(tokens: int) -> float:
        start = time.perf_counter()
        stock.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            cache_implementation="static",
            pad_token_id=0,
        )
        torch.cuda.synchronize()
        return time.perf_counter() - start

    stock.forward = torch.compile(stock.forward, mode="reduce-overhead", fullgraph=True)
    for _ in range(2):
        generate(options.tokens + 16)
    # The difference of two lengths leaves the prompt out.
    return options.tokens / (generate(options.tokens + 16) - generate(16))


if __name__ == "__main__":
    main()
