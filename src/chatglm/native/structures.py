"""The C structures of `native/include/chatglm_native.h`, made from tensors. Each keeps its tensors alive."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_Pointer, _Long, _Int, _Float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.int8: 3}


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class _Weight(ctypes.Structure):
    _fields_ = [
        ("values", _Pointer),
        ("scales", _Pointer),
        ("zeros", _Pointer),
        ("bias", _Pointer),
        ("rows", _Long),
        ("columns", _Long),
        ("group_size", _Long),
        ("bits", _Int),
        ("row_scales", _Int),
    ]


class _Cache(ctypes.Structure):
    _fields_ = [
        ("keys", _Pointer),
        ("values", _Pointer),
        ("key_scales", _Pointer),
        ("value_scales", _Pointer),
        ("groups", _Long),
        ("head_dim", _Long),
        ("dtype", _Int),
        ("block_size", _Int),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("tokens", _Long),
        ("requests", _Long),
        ("query_starts", _Pointer),
        ("lengths", _Pointer),
        ("block_tables", _Pointer),
        ("slots", _Pointer),
        ("table_stride", _Long),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        ("query_key_value", _Weight),
        ("dense", _Weight),
        ("up", _Weight),
        ("down", _Weight),
        ("attention_norm", _Pointer),
        ("mlp_norm", _Pointer),
        ("norm_eps", _Float),
        ("rotary_dim", _Int),
        ("hidden", _Long),
        ("heads", _Long),
        ("groups", _Long),
        ("head_dim", _Long),
        ("scaling", _Float),
    ]


class Edit(ctypes.Structure):
    """What is done to one row of scores; `seen`, `ids` (int64) and `values` (float32) are bytes, kept alive by this."""

    _fields_ = [
        ("seen", ctypes.c_char_p),
        ("ids", ctypes.c_char_p),
        ("values", ctypes.c_char_p),
        ("count", _Long),
        ("penalty", _Float),
        ("reserved", _Int),
    ]


class Highest(ctypes.Structure):
    _fields_ = [
        ("most", _Pointer),
        ("log_sums", _Pointer),
        ("logprobs", _Pointer),
        ("ids", _Pointer),
        ("kept", _Pointer),
    ]


BY_NAME = {
    "weight": _Weight,
    "cache": _Cache,
    "batch": _Batch,
    "layer": _Layer,
    "edit": Edit,
    "highest": Highest,
}
_AsWeight, _AsCache, _AsBatch, _AsLayer, _AsEdit, _AsHighest = map(ctypes.POINTER, BY_NAME.values())
FUNCTIONS: dict[str, list[Any]] = {
    "chatglm_linear": [_AsWeight, _Pointer, _Long, _Long, _Pointer, _Long],
    "chatglm_dequantize": [_AsWeight, _Pointer, _Long, _Long],
    "chatglm_quantize": [_AsWeight, _Pointer, _Int, _Long, _Int],
    "chatglm_gather": [_AsWeight, _Pointer, _Pointer, _Long, _Long],
    "chatglm_attention": [_AsCache, _AsBatch, _Pointer, _Pointer, _Pointer, _Pointer, _Long, _Float],
    "chatglm_layers_forward": [_AsLayer, _AsCache, _Long, _AsBatch, _Pointer, _Pointer, _Pointer],
    "chatglm_edit_scores": [_Pointer, _Long, _AsEdit, _Long],
    "chatglm_find_highest": [_Pointer, _Long, _Long, _Long, _AsHighest],
    "chatglm_read": [_Pointer, _Long],
    "chatglm_multiply_only": [_Long],
    "chatglm_set_num_threads": [_Int],
}


class Weight:
    """One packed weight matrix [rows, columns]; see `chatglm.quant.packing` for the layout.

    Args:
        values, scales, zeros: packed tensors on the CPU, contiguous.
        bias: float32 [rows] or None.
        rows, columns: before padding.
        bits: 4 or 8.
        group_size: columns that share a scale; None where there is one float32 scale for each row.
    """

    def __init__(
        self,
        values: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        bias: Tensor | None,
        rows: int,
        columns: int,
        bits: int,
        group_size: int | None,
    ) -> None:
        assert all(part is None or (part.is_cpu and part.is_contiguous()) for part in (values, scales, zeros, bias))
        assert bias is None or bias.dtype == torch.float32
        self.kept = (values, scales, zeros, bias)
        self.rows, self.columns = rows, columns
        self.padded_columns = values.shape[1] * 32 // bits
        self.struct = _Weight(
            address(values),
            address(scales),
            address(zeros),
            address(bias),
            rows,
            self.padded_columns,
            group_size or self.padded_columns,
            bits,
            int(group_size is None),
        )


class Cache:
    """Keys and values of one layer, [slots, groups, head_dim] each; int8 with scales [slots, groups]."""

    def __init__(self, keys: Tensor, values: Tensor, scales: tuple[Tensor, Tensor] | None, block_size: int) -> None:
        self.kept = (keys, values, scales)
        self.struct = _Cache(
            address(keys),
            address(values),
            address(scales[0]) if scales else None,
            address(scales[1]) if scales else None,
            keys.shape[1],
            keys.shape[2],
            DTYPES[keys.dtype],
            block_size,
        )


class Caches:
    """The caches of several layers in a row. Does not keep their memory alive: whoever uses it does."""

    def __init__(self, caches: Sequence[Cache]) -> None:
        self.structs = (_Cache * len(caches))(*(cache.struct for cache in caches))


class Batch:
    """The tokens of a step: `slots` [N] int64, `lengths` [R], `query_starts` [R + 1], `block_tables` [R, W] int32."""

    def __init__(self, slots: Tensor, lengths: Tensor, query_starts: Tensor, block_tables: Tensor) -> None:
        self.kept = (slots, lengths, query_starts, block_tables)
        self.struct = _Batch(
            slots.shape[0],
            lengths.shape[0],
            address(query_starts),
            address(lengths),
            address(block_tables),
            address(slots),
            block_tables.stride(0),
        )


class Layer:
    """One decoder layer: four weights, two float32 norm weights, the sizes."""

    def __init__(
        self,
        weights: tuple[Weight, Weight, Weight, Weight],
        norms: tuple[Tensor, Tensor],
        *,
        norm_eps: float,
        rotary_dim: int,
        hidden: int,
        heads: int,
        groups: int,
        head_dim: int,
        scaling: float,
    ) -> None:
        assert all(norm.is_cpu and norm.is_contiguous() and norm.dtype == torch.float32 for norm in norms)
        self.kept = (weights, norms)
        self.struct = _Layer(
            *(weight.struct for weight in weights),
            *(address(norm) for norm in norms),
            norm_eps,
            rotary_dim,
            hidden,
            heads,
            groups,
            head_dim,
            scaling,
        )


class Layers:
    """Several layers in a row."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.kept = tuple(layers)
        self.structs = (_Layer * len(layers))(*(layer.struct for layer in layers))
