"""How the rows of the fused `query_key_value` projection are shared out between query, key and value."""

import torch
from torch import Tensor

from chatglm.model.config import ChatGLMConfig

PARTS = ("q", "k", "v")


def split_rows(config: ChatGLMConfig, fused: Tensor, part: str) -> Tensor:
    """The rows of one part ("q", "k" or "v") of a fused weight [rows, in] or bias [rows], heads in order."""
    heads, groups, size = _sizes(config)
    index = PARTS.index(part)
    if not config.multi_query_attention:  # query, key and value of head 0, then of head 1, ...
        return fused.reshape(heads, 3, size, *fused.shape[1:])[:, index].flatten(0, 1)
    start = (0, heads * size, (heads + groups) * size)[index]
    return fused[start : start + part_size(config, part)]


def merge_rows(config: ChatGLMConfig, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The fused weight or bias; the inverse of `split_rows`."""
    heads, _, size = _sizes(config)
    if not config.multi_query_attention:
        parts = [part.reshape(heads, 1, size, *part.shape[1:]) for part in (query, key, value)]
        return torch.cat(parts, dim=1).flatten(0, 2)
    return torch.cat((query, key, value))


def part_size(config: ChatGLMConfig, part: str) -> int:
    """Rows of one part."""
    heads, groups, size = _sizes(config)
    return size * (heads if part == "q" else groups)


def _sizes(config: ChatGLMConfig) -> tuple[int, int, int]:
    assert config.kv_channels is not None
    return config.num_attention_heads, config.num_key_value_heads, config.kv_channels
