"""ROOM the native CPU kernels: the C interface of `native/` as Python functions over tensors.

- `library`: finds and loads the shared library, once; says why where there is none.
- `structures`: the C structures, made from tensors that they keep alive.
- `kernels`: the functions.
- `paged`: the engine's paged batch as structures.

Nothing here chooses: `quant` and `engine` ask `available()` and use torch where the answer is no.
"""

from chatglm.native.kernels import (
    attention,
    dequantize,
    edit_scores,
    find_highest,
    gather,
    layers_forward,
    linear,
    product_rate,
    quantize,
    read_rate,
)
from chatglm.native.library import (
    available,
    level,
    levels,
    num_threads,
    set_num_threads,
    use_level,
    why_not,
)
from chatglm.native.paged import batch_of, cache_of, readable
from chatglm.native.structures import Batch, Cache, Caches, Edit, Layer, Layers, Weight

__all__ = [
    "Batch",
    "Cache",
    "Caches",
    "Edit",
    "Layer",
    "Layers",
    "Weight",
    "attention",
    "available",
    "batch_of",
    "cache_of",
    "dequantize",
    "edit_scores",
    "find_highest",
    "gather",
    "layers_forward",
    "level",
    "levels",
    "linear",
    "num_threads",
    "product_rate",
    "quantize",
    "read_rate",
    "readable",
    "set_num_threads",
    "use_level",
    "why_not",
]
