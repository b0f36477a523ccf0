"""What the kernels do to a sampler's scores against what torch does: the same bits, the same tokens."""

import math
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_levels import LEVELS, needs_kernels, using

from chatglm import native
from chatglm.engine.drawing import Room
from chatglm.engine.edits import Edits
from chatglm.engine.logprobs import Likelihoods
from chatglm.engine.request import Request, SamplingParams
from chatglm.engine.rows import Row
from chatglm.engine.sampling import Sampler

pytestmark = needs_kernels
SIZES = st.sampled_from([1, 20, 31, 90, 128, 300, 2048])
SEEDS = st.integers(0, 2**31)
examples = settings(max_examples=40, deadline=None)


def by_torch() -> Any:
    return patch.object(native, "available", return_value=False)


@st.composite
def some_rows(draw: Any, size: int) -> list[Row]:
    """Requests of any settings that change scores, with a prompt and an answer of any tokens of the vocabulary."""
    ids = st.integers(0, size - 1)
    rows = []
    for _ in range(draw(st.integers(1, 12))):
        params = SamplingParams(
            temperature=draw(st.sampled_from([0.0, 0.8])),
            top_p=draw(st.sampled_from([0.8, 1.0])),
            repetition_penalty=draw(st.sampled_from([1.0, 1.1, 0.6, 3.0])),
            presence_penalty=draw(st.sampled_from([0.0, 0.5, -0.3])),
            frequency_penalty=draw(st.sampled_from([0.0, 0.4])),
            logit_bias=draw(st.dictionaries(ids, st.sampled_from([1.5, -2.25, -math.inf]), max_size=5)),
            bad_words_ids=[[token] for token in draw(st.lists(ids, max_size=2))],
            logprobs=draw(st.sampled_from([None, 0, 5])),
            seed=draw(st.integers(0, 99)),
        )
        request = Request(draw(st.lists(ids, min_size=1, max_size=40)), params, frozenset({0}))
        request.token_ids += draw(st.lists(ids, max_size=20))
        rows.append(Row(request, request.token_ids))
    return rows


def some_scores(rows: int, size: int, seed: int, *, equals: bool) -> torch.Tensor:
    scores = 4 * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))
    scores[:, seed % size] = (-math.inf, 0.0, -0.0, 30.0)[seed % 4]
    return scores.round() if equals else scores


@pytest.mark.parametrize("level", LEVELS)
@given(data=st.data(), size=SIZES, seed=SEEDS)
@examples
def test_scores_are_changed_to_the_same_bits(level: str, data: st.DataObject, size: int, seed: int) -> None:
    rows = data.draw(some_rows(size))
    scores = some_scores(len(rows), size, seed, equals=False)
    found, wanted = scores.clone(), scores.clone()
    with using(level):
        edits = Edits(rows, size, scores.device)
        for start in range(0, len(rows), 8):
            edits.apply(found[start : start + 8], start, Room())
    with by_torch():
        Edits(rows, size, scores.device).apply(wanted, 0, Room())
    assert torch.equal(found.view(torch.int32), wanted.view(torch.int32))


@pytest.mark.parametrize("level", LEVELS)
@given(size=SIZES, seed=SEEDS, count=st.integers(1, 20), equals=st.booleans(), changes=st.booleans())
@examples
def test_log_probabilities_are_the_same(
    level: str, size: int, seed: int, count: int, equals: bool, changes: bool
) -> None:
    """Also which ids come first where many are equally likely, and where a row has NaN or infinity."""
    scores = some_scores(5, size, seed, equals=equals)
    scores[3, seed % size], scores[4, seed % size] = math.nan, math.inf
    tokens = torch.tensor([seed % size, 0, size - 1, 0, 0])
    before = scores.clone()
    with using(level):
        found = Likelihoods(scores, count, Room(), changes=changes)
    with by_torch():
        wanted = Likelihoods(scores, count, Room(), changes=changes)
    assert torch.equal(scores.view(torch.int32), before.view(torch.int32))
    if changes:
        scores.zero_()
    assert torch.equal(found.ids[:3], wanted.ids[:3])
    torch.testing.assert_close(found.logprobs, wanted.logprobs, atol=2e-6, rtol=1e-6, equal_nan=True)
    torch.testing.assert_close(found.of(tokens), wanted.of(tokens), atol=2e-6, rtol=1e-6, equal_nan=True)
    assert ((found.ids >= 0) & (found.ids < size)).all()


@given(data=st.data(), size=SIZES, seed=SEEDS)
@examples
def test_tokens_are_the_same_with_and_without_the_kernels(data: st.DataObject, size: int, seed: int) -> None:
    rows = data.draw(some_rows(size))
    scores = some_scores(len(rows), size, seed, equals=False)
    found = Sampler().sample(scores.clone(), rows)
    with by_torch():
        wanted = Sampler().sample(scores.clone(), rows)
    assert [one.token_id for one in found] == [one.token_id for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        if one.logprobs is not None and other.logprobs is not None:
            assert [token for token, _ in one.logprobs.top] == [token for token, _ in other.logprobs.top]
            assert one.logprobs.logprob == pytest.approx(other.logprobs.logprob, abs=1e-5)
