"""The Triton kernels as machine code: compiled here without a GPU, and run where there is one.

Not in `test_triton_linear.py`, because there the kernels are those of the interpreter from the first test to the last.
"""

import importlib
from collections.abc import Iterator

import pytest
import torch
from triton_cases import BOUNDS, HAS_TRITON, SCHEMES, activations, apply, check, fresh_kernels, needs_triton, packed_of

from chatglm.quant import packing
from chatglm.quant.kernels import triton_linear

TENSORS = {"values": "*i32", "scales": "*fp16", "zeros": "*u8", "bias": "*bf16", "x": "*bf16", "out": "*bf16"}
OTHERS = {"parts": "*fp32", "ids": "*i64"}
TILES = {
    "gemv_kernel": {"STEPS": 256},
    "gemm_kernel": {"ROWS": 64, "TOKENS": 16, "STEPS": 16, "NEIGHBOURS": 8},
    "merge_kernel": {"TILE": 1024},
    "rows_kernel": {"HAS_IDS": True, "ROWS": 16, "COLUMNS": 128},
}


@pytest.fixture(scope="module")
def compiling() -> Iterator[None]:
    with fresh_kernels(interpreted=False):
        triton_linear._trial.cache_clear()
        yield
        triton_linear._trial.cache_clear()


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("architecture", [80, 89, 90])
@pytest.mark.parametrize("zero", [8, None])
@pytest.mark.parametrize("kernel", list(TILES))
def test_every_kernel_compiles(compiling, kernel, zero, architecture, monkeypatch, tmp_path):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(importlib.import_module("chatglm.quant.kernels.triton_kernels"), kernel)
    constants = {"BITS": 4, "GROUP_STEPS": 4, "ZERO": zero, "HAS_BIAS": True, **TILES[kernel]}
    kinds = {**TENSORS, **OTHERS, **dict.fromkeys(constants, "constexpr")}
    places = {name: place for place, name in enumerate(function.arg_names)}
    source = ASTSource(
        function,
        {name: kinds.get(name, "i32") for name in places},
        {(places[name],): value for name, value in constants.items() if name in places},
        {(place,): [["tt.divisibility", 16]] for name, place in places.items() if name not in (*constants, "ones")},
    )
    options = {"num_warps": 8 if kernel == "gemv_kernel" else 4, "num_stages": 4, "enable_fp_fusion": True}
    compiled = compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    assert ".local" not in compiled.asm["ptx"]
    if kernel == "gemm_kernel":
        assert ("wgmma.mma_async" if architecture == 90 else "mma.sync") in compiled.asm["ptx"]


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> str:
    if not HAS_TRITON or not torch.cuda.is_available():
        pytest.skip("no GPU, or Triton is not installed")
    request.getfixturevalue("compiling")
    return "cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 7, 16, 17, 65, 300])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_on_a_gpu(gpu, scheme, tokens, dtype):
    for rows, columns in ((1000, 4096), (33, 1234)):
        packed = packed_of(rows, columns, scheme, gpu)
        check(activations(tokens, columns, dtype, gpu), packed, torch.randn(rows, device=gpu).to(dtype), scheme)
        tensors = (packed.values, packed.scales, packed.zeros, rows, columns, scheme.bits, scheme.group_size, dtype)
        wanted = packing.dequantize(packed, scheme).to(dtype)
        assert torch.equal(triton_linear.dequantize(*tensors), wanted)
        ids = torch.randint(0, rows, (tokens,), device=gpu)
        assert torch.equal(triton_linear.dequantize(*tensors, ids), wanted[ids])


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_a_recorded_graph_repeats_the_call(gpu, tokens):
    scheme = SCHEMES[0]
    packed, x = packed_of(1000, 4096, scheme, gpu), activations(tokens, 4096, torch.float16, gpu)
    wanted = apply(x, packed, None, scheme)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = apply(x, packed, None, scheme)
    graph.replay()
    assert torch.equal(found, wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [20, 40, 300])
def test_the_tile_does_not_change_the_numbers(gpu, tokens, monkeypatch):
    scheme = SCHEMES[0]
    packed, x = packed_of(1000, 4096, scheme, gpu), activations(tokens, 4096, torch.float16, gpu)
    tried = apply(x, packed, None, scheme)
    monkeypatch.setattr(triton_linear, "_trial", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert torch.equal(apply(x, packed, None, scheme), tried)
