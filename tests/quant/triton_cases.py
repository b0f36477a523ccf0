"""What the tests of the Triton kernels share: packed weights, and the comparison with `packing.dequantize`."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from fresh_triton import fresh_triton

from chatglm.quant import packing
from chatglm.quant.kernels import triton_linear
from chatglm.quant.scheme import QuantScheme

HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed (PyTorch's CUDA builds bring it)")
SCHEMES = [
    *(QuantScheme(4, size, symmetric) for size in (32, 64, 128) for symmetric in (True, False)),
    *(QuantScheme(8, size) for size in (32, 64, 128)),
    QuantScheme(4, None),
    QuantScheme(8, None),
]
# Error of a sum as a share of the sum of sizes: of float32 arithmetic, and of weights rounded to the dtype.
BOUNDS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@contextmanager
def fresh_kernels(interpreted: bool) -> Iterator[None]:
    """The kernels over a Triton of their own."""
    name = "chatglm.quant.kernels.triton_kernels"
    path = Path(triton_linear.__file__).with_name("triton_kernels.py")
    with fresh_triton(interpreted) as patch:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, name, module)
        patch.setattr("chatglm.quant.kernels.triton_kernels", module, raising=False)
        spec.loader.exec_module(module)
        yield


def packed_of(rows: int, columns: int, scheme: QuantScheme, device: str = "cpu") -> packing.Packed:
    generator = torch.Generator().manual_seed(rows * columns)
    weight = torch.randn(rows, columns, generator=generator) * 0.1
    packed = packing.pack(*packing.quantize(weight, scheme), columns, scheme)
    for name in ("values", "scales", "zeros"):
        tensor = getattr(packed, name)
        setattr(packed, name, None if tensor is None else tensor.to(device))
    return packed


def apply(x: torch.Tensor, packed: packing.Packed, bias: torch.Tensor | None, scheme: QuantScheme) -> torch.Tensor:
    return triton_linear.linear(
        x, packed.values, packed.scales, packed.zeros, bias, packed.rows, scheme.bits, scheme.group_size
    )


def check(x: torch.Tensor, packed: packing.Packed, bias: torch.Tensor | None, scheme: QuantScheme) -> None:
    weight = packing.dequantize(packed, scheme).double()
    found = apply(x, packed, bias, scheme)
    assert found.dtype == x.dtype
    wanted, sizes = x.double() @ weight.T, x.double().abs() @ weight.abs().T
    if bias is not None:
        wanted, sizes = wanted + bias.double(), sizes + bias.double().abs()
    assert found.shape == wanted.shape
    least = torch.finfo(x.dtype).tiny * torch.finfo(x.dtype).eps  # the steps that numbers near 0 have
    worst = ((found.double() - wanted).abs() - BOUNDS[x.dtype] * sizes).max() if found.numel() else torch.zeros(())
    assert worst <= least, f"{worst:g} above the bound of {BOUNDS[x.dtype]:g}"


def activations(tokens: int, columns: int, dtype: torch.dtype, device: str = "cpu") -> torch.Tensor:
    return torch.randn(tokens, columns, generator=torch.Generator().manual_seed(tokens)).to(device, dtype)
