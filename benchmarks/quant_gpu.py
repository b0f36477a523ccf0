"""The quantized linear layer on a GPU, against what its memory and its matrix units can do.

    python benchmarks/quant_gpu.py [--schemes int4 int4-g128 int8] [--tokens 1 4 16 64 512 4096] [--dtype bfloat16]

The four matrices of a 6B layer, random weights. Few tokens: bytes of the packed weight a second as a share of the rate
of a copy in memory. Many: flops a second as a share of the rate of a large bf16 product. Beside them torch's own int4
operator and the bf16 product of the same shape. Every call has a weight of its own, so that no cache keeps it, and is
played from a CUDA graph, so that Python's time does not count.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import hardware
from gpu import copy_rate, matrix_rate, seconds

from chatglm.quant import packing
from chatglm.quant.kernels import torch_int4, triton_linear
from chatglm.quant.scheme import QuantScheme

SHAPES = {"qkv": (4608, 4096), "dense": (4096, 4096), "up": (27392, 4096), "down": (4096, 13696)}
CACHE = 512 * 2**20  # bytes of different weights, far more than a GPU's cache
MANY = 64  # tokens from which a product is bound by arithmetic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemes", nargs="+", default=["int4", "int4-g128", "int8"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 4, 16, 64, 512, 4096])
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(
            f"benchmarks/quant_gpu.py needs a GPU; torch {torch.__version__} (CUDA {torch.version.cuda}) sees none"
        )
    dtype: torch.dtype = getattr(torch, options.dtype)
    if reason := triton_linear.unsuited(torch.device("cuda"), dtype):
        raise SystemExit(f"benchmarks/quant_gpu.py: {reason}")
    copy, matrix = copy_rate(), matrix_rate()
    print(hardware())
    print(f"{dtype}; copy {copy / 1e9:.0f} GB/s, bf16 matrix {matrix / 1e12:.0f} TF/s; times in microseconds")
    print("\n| scheme | matrix | tokens | ours | rate | share | torch int4 | bf16 | times bf16 | error |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in options.schemes:
        for matrix_name, shape in SHAPES.items():
            table(QuantScheme.parse(name), matrix_name, shape, options.tokens, dtype, copy, matrix)


def table(
    scheme: QuantScheme,
    name: str,
    shape: tuple[int, int],
    tokens: list[int],
    dtype: torch.dtype,
    copy: float,
    peak: float,
) -> None:
    """The lines of one matrix."""
    rows, columns = shape
    packed, weight = made(scheme, rows, columns)
    size = sum(part.nbytes for part in (packed.values, packed.scales, packed.zeros) if part is not None)
    ours = [clone(packed) for _ in range(CACHE // size + 1)]
    full = [weight.to(dtype) for _ in range(CACHE // (weight.numel() * 2) + 1)]
    device = torch.device("cuda")
    torch_reason = torch_int4.supports(scheme, device, dtype)
    theirs = [] if torch_reason else [torch_int4.convert(one, scheme, device, dtype) for one in ours]
    for count in tokens:
        x = torch.randn(count, columns, device="cuda", dtype=dtype)
        time = played(partial(apply, scheme=scheme), x, ours)
        full_time = played(torch.nn.functional.linear, x, full)
        their_time = f"{played(torch_int4.linear, x, theirs) * 1e6:.1f}" if theirs else "-"
        wanted = x.double() @ packing.dequantize(packed, scheme).double().T
        error = float((apply(x, packed, scheme).double() - wanted).norm() / wanted.norm())
        if count < MANY:
            rate, share = f"{size / time / 1e9:.0f} GB/s", size / time / copy
        else:
            flops = 2 * rows * columns * count
            rate, share = f"{flops / time / 1e12:.0f} TF/s", flops / time / peak
        print(
            f"| {scheme.name} | {name} {rows} x {columns} | {count} | {time * 1e6:.1f} | {rate} | {share:.2f} "
            f"| {their_time} | {full_time * 1e6:.1f} | {full_time / time:.2f} | {error:.1e} |"
        )


def made(scheme: QuantScheme, rows: int, columns: int) -> tuple[packing.Packed, torch.Tensor]:
    """A random weight and its packed form, on the GPU."""
    weight = torch.randn(rows, columns, device="cuda") * 0.02
    return packing.pack(*packing.quantize(weight, scheme), columns, scheme), weight


def clone(packed: packing.Packed) -> packing.Packed:
    zeros = None if packed.zeros is None else packed.zeros.clone()
    return packing.Packed(packed.values.clone(), packed.scales.clone(), zeros, packed.rows, packed.columns)


def apply(x: torch.Tensor, packed: packing.Packed, scheme: QuantScheme) -> torch.Tensor:
    return triton_linear.linear(
        x, packed.values, packed.scales, packed.zeros, None, packed.rows, scheme.bits, scheme.group_size
    )


def played(product: Callable[[torch.Tensor, Any], Any], x: torch.Tensor, weights: list[Any]) -> float:
    """Mean seconds of a product when those with all the weights are recorded one after another and played back."""
    product(x, weights[0])  # compiled, and tiles tried, before anything is recorded
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for weight in weights:
            product(x, weight)
    return seconds(graph.replay, 10) / len(weights)


if __name__ == "__main__":
    main()
