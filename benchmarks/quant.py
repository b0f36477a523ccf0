"""Quantized weights on the CPU end to end, beside what the machine can give and the peers, all in one run.

    python benchmarks/quant.py [--scheme int4] [--layers 28] [--contexts 128 2048] [--prompts 512 2048] [--batch 8]
                               [--llama-bench PROGRAM --llama-model FILE.gguf] [--openvino] [--folder] [--level avx2]

6B shapes with random weights, packed as the scheme says. With fewer layers the peers must have as many. The limit of
decoding is the memory rate over the bytes a token reads (packed weights, keys and values); that of a prompt is the rate
of 8-bit products between registers over those a token needs; that of requests side by side is the lower one of both.
Measured in the same run, in turns with ours: other tenants of a machine change them within seconds. Each peer's
figure is taken directly after ours.

llama.cpp runs the same number of threads through its own `llama-bench`; OpenVINO (`pip install openvino`) runs the
linears alone, int4 in groups of 128, beside ours alone. `--folder` saves the model to a temporary folder and measures
in a fresh process how long it takes to load, and the highest memory after a prompt of 2,000 tokens and an answer.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch
from common import hardware, packed_model
from peers import SHAPES, Llama, openvino_linears

from chatglm import native
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import Request, SamplingParams
from chatglm.quant.fused import fuse, linears_of
from chatglm.quant.scheme import QuantScheme

CHATTER = """
import json, re, sys, time
sys.modules["triton"] = None  # torch loads it, 70 MB, where it is installed; here only the tests need it
import torch
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import SamplingParams
from chatglm.model.network import ChatGLMForConditionalGeneration
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
imported, begin = peak(), time.perf_counter()
model = ChatGLMForConditionalGeneration.from_pretrained(sys.argv[1])
loaded = time.perf_counter() - begin
engine = Engine(model, EngineConfig(kv_dtype="float16", kv_memory=28_672 * 4096))
prompt = torch.randint(3, 60000, (2000,)).tolist()
engine.generate([prompt], SamplingParams(temperature=0, max_tokens=32, ignore_eos=True))
print(json.dumps({"imported": imported, "loaded": loaded, "peak": peak()}))
"""


def weight_bytes(model: Any) -> int:
    """Bytes of all weights one token reads: everything but the embedding."""
    return sum(t.nbytes for name, t in model.state_dict().items() if "embedding" not in name)


def start(engine: Engine, context: int, count: int, tokens: int) -> list[Request]:
    """Requests of `context` random tokens each, prompts computed."""
    generator = torch.Generator().manual_seed(context)
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    prompts = [torch.randint(3, 60000, (context,), generator=generator).tolist() for _ in range(count)]
    requests = [engine.submit(prompt, params) for prompt in prompts]
    while any(request.num_pending != 1 for request in requests):
        engine.step()
    return requests


def decode_rate(engine: Engine, context: int, count: int, steps: int) -> tuple[float, float]:
    """Tokens a second of `count` requests at a context, and bytes a second that memory gives: medians, in turns."""
    rounds = 5
    requests = start(engine, context, count, rounds * (steps + 1) + 8)
    times, rates = [], []
    for _ in range(rounds):
        rates.append(native.read_rate(2**28, repeats=3))
        engine.step()
        for _ in range(steps):
            begin = time.perf_counter()
            engine.step()
            times.append(time.perf_counter() - begin)
    for request in requests:
        engine.abort(request)
    return count / statistics.median(times), statistics.median(rates)


def prefill_rate(engine: Engine, length: int, repeats: int) -> tuple[float, float]:
    """Prompt tokens a second until the first answer token is there, and 8-bit products a second: medians, in turns."""
    rates, products = [], []
    for _ in range(repeats):
        products.append(native.product_rate())
        begin = time.perf_counter()
        (request,) = start(engine, length, 1, 4)
        rates.append(length / (time.perf_counter() - begin))
        engine.abort(request)
    return statistics.median(rates), statistics.median(products)


def linears_rate(model: Any, length: int, repeats: int = 5) -> float:
    """Tokens a second of all linears of the layers alone: the median over the first layer, times all."""
    linears = linears_of(next(module for module in model.modules() if linears_of(module)))
    inputs = [torch.randn(length, linear.in_features) for linear in linears]
    times = []
    with torch.inference_mode():
        for _ in range(repeats):
            begin = time.perf_counter()
            for linear, states in zip(linears, inputs, strict=True):
                linear(states)
            times.append(time.perf_counter() - begin)
    return length / (statistics.median(times[1:]) * model.config.num_layers)


def folder(model: Any) -> str:
    """Save, then load and chat in a fresh process."""
    with tempfile.TemporaryDirectory() as path:
        model.save_pretrained(path)
        command = [sys.executable, "-c", CHATTER, path]
        runs = [
            json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3)
        ]
    loaded, peak = (statistics.median(run[key] for run in runs) for key in ("loaded", "peak"))
    return (
        f"folder of {model.get_memory_footprint() / 1e9:.2f} GB: loaded in {loaded:.2f} s (warm page cache), "
        f"memory after 2,032 tokens at most {peak / 1e9:.2f} GB, {runs[0]['imported'] / 1e9:.2f} of it the libraries"
    )


def row(name: str, ours: float, limit: float | None = None, peer: float | None = None) -> None:
    share = f"{limit:.2f} | {ours / limit:.0%}" if limit else "- | -"
    ratio = f"{peer:.2f} | {ours / peer:.2f}" if peer else "- | -"
    print(f"| {name} | {ours:.2f} | {share} | {ratio} |", flush=True)


def products_of(arguments: argparse.Namespace) -> int:
    """Products that one token needs in the layers."""
    return int(arguments.layers * sum(rows * columns for rows, columns in SHAPES))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scheme", default="int4")
    parser.add_argument("--head-bits", type=int, choices=(4, 8), default=8)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--contexts", type=int, nargs="*", default=[128, 2048])
    parser.add_argument("--prompts", type=int, nargs="*", default=[512, 2048])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="of each of five rounds")
    parser.add_argument("--kv-dtype", default="float16")
    parser.add_argument("--level", help="instruction set: avx512_vnni, avx2, ...")
    parser.add_argument("--llama-bench")
    parser.add_argument("--llama-model")
    parser.add_argument("--openvino", action="store_true")
    parser.add_argument("--folder", action="store_true")
    return parser.parse_args()


def main() -> None:
    arguments = options()
    if arguments.level:
        native.use_level(arguments.level)
    scheme = QuantScheme.parse(arguments.scheme)
    scheme = QuantScheme(scheme.bits, scheme.group_size, scheme.symmetric, arguments.head_bits)
    print(f"{hardware()}; kernels {native.level()}, {native.num_threads()} threads")
    model = packed_model(scheme, arguments.layers)
    print(f"{scheme.name}, head {scheme.head_bits} bits, {arguments.layers} layers; in one native call: {fuse(model)}")
    longest = max([*arguments.contexts, *arguments.prompts]) + 64
    per_token = 2 * arguments.layers * 2 * 128 * 2
    engine = Engine(
        model,
        EngineConfig(
            kv_dtype=arguments.kv_dtype,
            kv_memory=per_token * max(longest + 512, arguments.batch * 512),
            prefix_cache=False,
        ),
    )
    peer = None
    if arguments.llama_bench:
        peer = Llama(arguments.llama_bench, arguments.llama_model, native.num_threads())
    print("\n| measure, tokens/s | ours | limit | share of the limit | llama.cpp | ratio |\n|---|---|---|---|---|---|")
    for context in arguments.contexts:
        ours, memory = decode_rate(engine, context, 1, arguments.steps)
        limit = memory / (weight_bytes(model) + per_token * context)
        row(f"decode at context {context}", ours, limit, peer and peer.decode(context))
    for length in arguments.prompts:
        ours, products = prefill_rate(engine, length, 3)
        limit = products / products_of(arguments)
        row(f"prompt of {length}", ours, limit, peer and peer.prefill(length))
    if arguments.batch:
        ours, memory = decode_rate(engine, 128, arguments.batch, arguments.steps)
        read = arguments.batch * memory / (weight_bytes(model) + arguments.batch * per_token * 128)
        row(
            f"{arguments.batch} requests at context 128",
            ours,
            min(read, native.product_rate() / products_of(arguments)),
        )
    print(f"\nlinears of a prompt of 512 alone: {linears_rate(model, 512):.1f} tokens/s", flush=True)
    if arguments.openvino:
        print(f"OpenVINO's, u4 in groups of 128: {openvino_linears(512, native.num_threads()):.1f} tokens/s")
    if arguments.folder:
        print(folder(model))


if __name__ == "__main__":
    main()
