"""Fused paged attention against the readable reference, over random shapes and cuts of the cache."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm.engine import attention
from chatglm.engine.attention import attend_reference, attend_sdpa
from chatglm.engine.cache import KVCache


@settings(max_examples=60, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]),
    rows=st.sampled_from([1, 4]),
    head_dim=st.sampled_from([8, 16]),
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=20),
    num_new=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_sdpa_equals_reference(
    groups: int, rows: int, head_dim: int, lengths: list[int], num_new: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(min(num_new, sum(lengths)), groups * rows, head_dim, generator=generator)
    parts = [
        tuple(3 * torch.randn(length, groups, head_dim, generator=generator) for _ in range(2)) for length in lengths
    ]
    expected = attend_reference(query, parts, 0.3)
    torch.testing.assert_close(attend_sdpa(query, parts, 0.3), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("quantized", [False, True])
def test_the_cache_returns_what_was_written(quantized: bool) -> None:
    cache = KVCache(2, 32, 2, 8, torch.float32, torch.device("cpu"), quantized)
    key, value = torch.randn(5, 2, 8), torch.randn(5, 2, 8)
    cache.write(1, torch.arange(7, 12), key, value)
    read = cache.read(1, slice(7, 12))
    bound = key.abs().max() / 254 if quantized else 0.0
    for actual, expected in zip(read, (key, value), strict=True):
        torch.testing.assert_close(actual, expected, atol=float(bound) * 1.6, rtol=0)


@pytest.mark.parametrize(("num_new", "length"), [(5, 5), (3, 20)])
def test_prompts_on_a_gpu_read_keys_where_they_lie(num_new: int, length: int) -> None:
    """With the mask said in words, and without a copy of the keys for every head."""
    torch.manual_seed(0)
    query, key, value = torch.randn(num_new, 8, 16), torch.randn(length, 2, 16), torch.randn(length, 2, 16)
    mask = attention._ends_at_the_last(num_new, length)
    found = attention._attend_grouped(query, key, value, mask, 0.25)
    torch.testing.assert_close(found, attention.attend_reference(query, [(key, value)], 0.25), atol=1e-5, rtol=1e-5)
