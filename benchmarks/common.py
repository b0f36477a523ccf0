"""What the benchmarks share: 6B shapes with random weights, medians, the hardware line."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant.fused import fuse
from chatglm.quant.model import quantize_empty_model
from chatglm.quant.scheme import QuantScheme

SCHEMES = "bfloat16, float16, float32, or a scheme of packed weights: int4, int8, ..."
SIX_B = {
    "num_layers": 28, "hidden_size": 4096, "ffn_hidden_size": 13696, "kv_channels": 128, "num_attention_heads": 32,
    "padded_vocab_size": 65024, "multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True,
    "seq_length": 32768,
}  # fmt: skip


def hardware() -> str:
    """One line: processor, threads, library."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{gpu}; torch {torch.__version__}"


def six_b(layers: int, dtype: torch.dtype, device: str = "cpu", **overrides: Any) -> ChatGLMForConditionalGeneration:
    """A network with the widths of the 6B models, `layers` deep, with small random weights."""
    config = ChatGLMConfig(**(SIX_B | {"num_layers": layers} | overrides))
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(config)
    model = model.to(dtype).to_empty(device=device).eval()
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layernorm" in name:
                parameter.fill_(1)
            else:
                parameter.uniform_(-0.03, 0.03, generator=generator)
    return model


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


def model_of(scheme: str, layers: int) -> Any:
    """A network of 6B widths in a dtype, or packed by a scheme with its layers in one native call."""
    if scheme in ("bfloat16", "float16", "float32"):
        return six_b(layers, getattr(torch, scheme))
    parsed = QuantScheme.parse(scheme)
    model = packed_model(QuantScheme(parsed.bits, parsed.group_size, parsed.symmetric, head_bits=8), layers)
    print(f"all layers in one native call: {fuse(model)}")
    return model


def median_seconds(run: Callable[[], Any], repeats: int = 7, warm_up: int = 1) -> float:
    """Median wall time of `run`."""
    for _ in range(warm_up):
        run()
    times = []
    for _ in range(repeats):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
