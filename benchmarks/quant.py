"""INT4 on the CPU end to end, beside the memory limit and the peers, all in one run.

    python benchmarks/quant.py [--scheme int4] [--layers 28] [--contexts 128 2048] [--prompts 512 2048] [--batch 8]
                               [--llama-bench PROGRAM --llama-model FILE.gguf] [--openvino] [--level avx2]

6B shapes with random weights, packed as the scheme says. With fewer layers the peers must have as many. The limit of
decoding is the bytes a token reads (packed weights, keys and values) over the memory rate measured in the same run.
llama.cpp runs the same number of threads through its own `llama-bench`; OpenVINO (`pip install openvino`) runs the
linears alone, int4 in groups of 128.
"""

import argparse
import json
import resource
import statistics
import subprocess
import time
from typing import Any

import torch
from common import SIX_B, hardware

from chatglm import native
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import Request, SamplingParams
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant.fused import fuse
from chatglm.quant.model import quantize_empty_model
from chatglm.quant.scheme import QuantScheme


def packed_model(scheme: QuantScheme, layers: int) -> Any:
    """A quantized network of 6B widths with random whole numbers for weights, sized so that activations stay finite."""
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(ChatGLMConfig(**(SIX_B | {"num_layers": layers})))
        quantize_empty_model(model, scheme)
    model = model.float().to_empty(device="cpu").eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("packed_values"):
            tensor.view(-1).view(torch.int64).random_()
        elif name.endswith("packed_zeros"):
            tensor.fill_(8)
        elif name.endswith("packed_scales"):
            tensor.fill_(0.03 / (8 if "int4" in scheme.name else 127))
        elif "layernorm" in name:
            tensor.fill_(1)
        else:
            tensor.uniform_(-0.03, 0.03)
    return model


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
    """Tokens a second of `count` requests at a context, and bytes a second that memory gives: medians.

    Other tenants of the machine change both within seconds, so they are measured in turns.
    """
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


def prefill_rate(engine: Engine, length: int, repeats: int) -> float:
    """Prompt tokens a second until the first answer token is there: the median prompt."""
    rates = []
    for _ in range(repeats):
        begin = time.perf_counter()
        (request,) = start(engine, length, 1, 4)
        rates.append(length / (time.perf_counter() - begin))
        engine.abort(request)
    return statistics.median(rates)


def llama(program: str, model: str, prompts: list[int], contexts: list[int], threads: int) -> dict[str, float]:
    """The same measures by llama.cpp's own benchmark."""
    rates = {}
    common = [program, "-m", model, "-t", str(threads), "-r", "1", "-o", "json"]
    for length in prompts:
        rates[f"prefill {length}"] = _llama_rate([*common, "-p", str(length), "-n", "0"])
    for context in contexts:
        rates[f"decode @{context}"] = _llama_rate([*common, "-p", "0", "-n", "24", "-d", str(context)])
    return rates


def _llama_rate(command: list[str]) -> float:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)[-1]["avg_ts"])


def openvino_prefill(length: int) -> float:
    """Tokens a second of the four linears of 28 layers alone: u4 in groups of 128, activations quantized likewise."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as ops

    random = np.random.default_rng(0)
    seconds = 0.0
    for rows, columns in ((4608, 4096), (4096, 4096), (27392, 4096), (4096, 13696)):
        shape = (rows, columns // 128, 128)
        weight = ops.constant(random.integers(0, 15, shape, dtype=np.uint8), dtype=ov.Type.u4)
        centred = ops.subtract(ops.convert(weight, np.float16), ops.constant(np.float16(8)))
        scale = ops.constant(np.full((*shape[:2], 1), 0.003, np.float16))
        full = ops.reshape(ops.multiply(centred, scale), ops.constant(np.array([rows, columns])), False)
        states = ops.parameter([-1, columns], np.float32)
        product = ops.matmul(states, ops.convert(full, np.float32), False, True)
        options = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "128", "INFERENCE_NUM_THREADS": str(native.num_threads())}
        request = ov.Core().compile_model(ov.Model([product], [states]), "CPU", options).create_infer_request()
        inputs = {0: random.standard_normal((length, columns), dtype=np.float32)}
        times = []
        for _ in range(6):
            begin = time.perf_counter()
            request.infer(inputs)
            times.append(time.perf_counter() - begin)
        seconds += statistics.median(times[1:])
    return length / (28 * seconds)


def main() -> None:
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
    arguments = parser.parse_args()
    if arguments.level:
        native.use_level(arguments.level)
    scheme = QuantScheme.parse(arguments.scheme)
    scheme = QuantScheme(scheme.bits, scheme.group_size, scheme.symmetric, arguments.head_bits)
    print(f"{hardware()}; kernels {native.level()}, {native.num_threads()} threads")
    begin = time.perf_counter()
    model = packed_model(scheme, arguments.layers)
    print(f"{scheme.name}, head {scheme.head_bits} bits, {arguments.layers} layers, made in "
          f"{time.perf_counter() - begin:.0f} s; fused: {fuse(model)}")  # fmt: skip
    longest = max([*arguments.contexts, *arguments.prompts]) + 64
    per_token = 2 * arguments.layers * 2 * 128 * 2
    config = EngineConfig(
        kv_dtype=arguments.kv_dtype,
        kv_memory=per_token * max(longest + 512, arguments.batch * 512),
        prefix_cache=False,
    )
    engine = Engine(model, config)
    rows: list[tuple[str, float, float | None]] = []
    peers = {}
    if arguments.llama_bench:
        peers = llama(
            arguments.llama_bench, arguments.llama_model, arguments.prompts, arguments.contexts, native.num_threads()
        )
    for context in arguments.contexts:
        ours, memory = decode_rate(engine, context, 1, arguments.steps)
        rows.append((f"decode @{context}", ours, memory / (weight_bytes(model) + per_token * context)))
        print(f"memory {memory / 1e9:.1f} GB/s while decoding at {context}", flush=True)
    for length in arguments.prompts:
        rows.append((f"prefill {length}", prefill_rate(engine, length, 2), None))
    if arguments.batch:
        ours, _ = decode_rate(engine, 128, arguments.batch, arguments.steps)
        rows.append((f"decode @128 x{arguments.batch}", ours, None))
    print("| measure, tok/s | ours | limit | share of the limit | llama.cpp | ratio |")
    print("|---|---|---|---|---|---|")
    for name, ours, bound in rows:
        peer = peers.get(name)
        print(f"| {name} | {ours:.2f} | {f'{bound:.2f}' if bound else '-'} | {f'{ours / bound:.0%}' if bound else '-'} "
              f"| {f'{peer:.2f}' if peer else '-'} | {f'{ours / peer:.2f}' if peer else '-'} |")  # fmt: skip
    if arguments.openvino:
        rate = openvino_prefill(512)
        print(f"OpenVINO u4 g128, linears alone, 512 tokens: {rate:.1f} tok/s")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
