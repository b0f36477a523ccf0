"""Settings against recorded results of the official processors, and sampled tokens against their distribution."""

import json
import random
from typing import Any

import pytest
import torch
from golden_data import golden_file
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from chatglm.engine.drawing import Drawer, Room, _cut_row_top_p
from chatglm.engine.edits import Edits
from chatglm.engine.request import Request, SamplingParams
from chatglm.engine.rows import Row
from chatglm.engine.sampling import Sampler, uniform
from chatglm.engine.warping import walk, warp
from chatglm.errors import RequestError

SPEC = json.loads(golden_file("units/spec.json").read_text())["spec"]["logits"]
TENSORS = load_file(golden_file("units/units.safetensors"))
OURS = {"temperature", "top_p", "top_k", "repetition_penalty", "bad_words_ids"}
CASES = [case for case in SPEC if set(case) - {"name"} <= OURS]


def row(context: list[int], **params: Any) -> Row:
    return Row(Request(context, SamplingParams(**params), frozenset()), context)


def edited(scores: torch.Tensor, rows: list[Row]) -> torch.Tensor:
    """`scores` [n, vocab] as the settings of the rows change them; the originals stay."""
    scores = scores.clone()
    Edits(rows, scores.shape[1], scores.device).apply(scores, 0, Room())
    return scores


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_settings_equal_the_official_processors(case: dict[str, Any]) -> None:
    params = {key: value for key, value in case.items() if key != "name"}
    rows = [row(ids, **params) for ids in TENSORS["lp.input_ids"].tolist()]
    scores = warp(edited(TENSORS["lp.scores"], rows), [one.request.params for one in rows])
    torch.testing.assert_close(scores.softmax(1), TENSORS[case["name"] + ".probs"], atol=3e-6, rtol=0)


def test_every_official_setting_is_covered() -> None:
    assert len(CASES) >= 9


@pytest.mark.parametrize("chosen", [{}, {"top_p": 0.7}, {"top_k": 4}, {"min_p": 0.2}, {"temperature": 0.5}], ids=str)
def test_tokens_follow_their_distribution(chosen: dict[str, Any]) -> None:
    """Chi-square of 8,000 draws against the warped probabilities; the bound is the 99.99 % quantile for 11 degrees."""
    logits = torch.randn(12, generator=torch.Generator().manual_seed(3))
    params = SamplingParams(seed=9, **chosen)
    request = Request([0], params, frozenset())
    rows = [Row(request, [0] * position) for position in range(1, 8_001)]
    drawn = Sampler().sample(logits.expand(len(rows), -1).clone(), rows)
    counts = torch.bincount(torch.tensor([item.token_id for item in drawn]), minlength=12).double()
    expected = warp(logits[None].clone(), [params]).softmax(1)[0].double() * len(rows)
    assert (counts[expected == 0] == 0).all()
    possible = expected > 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < 37.4


@settings(max_examples=60, deadline=None)
@given(
    spread=st.sampled_from([0.0, 0.01, 1.0, 5.0, 100.0]),
    steps=st.sampled_from([None, 0.5, 4.0]),
    top_p=st.floats(1e-6, 0.9999),
    banned=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_top_p_keeps_the_fewest_that_reach_it(
    spread: float, steps: float | None, top_p: float, banned: int, seed: int
) -> None:
    """Also where tokens are equal (logits in half precision often are), cut already, or far apart."""
    logits = spread * torch.randn(1, 500, generator=torch.Generator().manual_seed(seed))
    if steps is not None:
        logits = (logits / steps).round() * steps
    logits[0, :banned] = -torch.inf
    kept = warp(logits.clone(), [SamplingParams(top_p=top_p)]).isfinite()[0]
    cut = logits.softmax(1)[0]
    _cut_row_top_p(cut, top_p)
    assert torch.equal(cut > 0, kept & (logits[0].softmax(0) > 0)), "the histogram keeps the same"
    probabilities = logits.double().softmax(1)[0]
    assert not kept[:banned].any()
    assert probabilities[kept].min() >= probabilities[~kept].max() if not kept.all() else True
    mass, least = float(probabilities[kept].sum()), float(probabilities[kept].min())
    assert mass >= top_p - 1e-6 or bool(kept[banned:].all())
    assert mass - least <= top_p + 1e-6


def test_greedy_in_a_mixed_batch_is_the_first_best() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    rows = [row([0], temperature=0), row([0], seed=1)]
    assert Sampler().sample(logits, rows)[0].token_id == 1


def test_uniform_depends_on_seed_and_position_alone() -> None:
    assert uniform(1, 2) == uniform(1, 2)
    assert len({uniform(seed, position) for seed in range(30) for position in range(30)}) == 900


def test_presence_and_frequency_look_at_the_answer_only() -> None:
    request = Request([1, 1, 2], SamplingParams(presence_penalty=1.0, frequency_penalty=0.5), frozenset())
    scores = edited(torch.zeros(1, 5), [Row(request, [1, 1, 2, 3, 3, 4])])
    assert scores.tolist() == [[0.0, 0.0, 0.0, -2.0, -1.5]]


def test_minimum_length_and_bias() -> None:
    request = Request([1], SamplingParams(min_tokens=2, max_tokens=4, logit_bias={3: 2.5}), frozenset({4}))
    assert edited(torch.zeros(1, 5), [Row(request, [1, 0])]).tolist() == [[0, 0, 0, 2.5, float("-inf")]]
    assert edited(torch.zeros(1, 5), [Row(request, [1, 0, 0])]).tolist() == [[0, 0, 0, 2.5, 0]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1},
        {"top_k": 1.5}, {"min_p": 2}, {"repetition_penalty": 0}, {"presence_penalty": 3}, {"max_tokens": 0},
        {"min_tokens": 5, "max_tokens": 4}, {"logprobs": 21}, {"stop": "text"}, {"stop": [""]},
        {"bad_words_ids": [[]]},
    ],
    ids=str,
)  # fmt: skip
def test_bad_settings_name_themselves(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        SamplingParams(**wrong)


CHOICES: dict[str, tuple[Any, ...]] = {
    "temperature": (0, 0.01, 0.8, 1.0, 5.0),
    "top_k": (0, 0, 1, 5, 50, 63, 64, 200, 100_000),
    "top_p": (1.0, 0.8017, 0.9511, 0.1013, 1e-5, 0.999999),  # no sum of equals reaches one of them exactly
    "min_p": (0.0, 0.0, 0.05, 0.5, 1.0),
}


@pytest.mark.parametrize("vocabulary", [12, 1001, 2048, 16_384, pytest.param(65_024, marks=pytest.mark.slow)])
def test_drawn_tokens_are_those_of_warp_and_walk(vocabulary: int) -> None:
    """By the most likely ones, by a histogram, or by walking through all: the token is the same, also among equals."""
    generator, dice = torch.Generator().manual_seed(5), random.Random(vocabulary)
    draw = Drawer(Room())
    for _ in range(40):
        logits = dice.choice([0.0, 0.01, 1.0, 5.0, 100.0]) * torch.randn(
            dice.choice([1, 3, 9]), vocabulary, generator=generator
        )
        if (step := dice.choice([None, None, 0.5, 4.0])) is not None:
            logits = (logits / step).round() * step
        logits[:, : dice.choice([0, vocabulary // 3])] = -torch.inf
        params = [SamplingParams(**{name: dice.choice(of) for name, of in CHOICES.items()}) for _ in logits]
        numbers = [dice.choice([0.0, dice.random(), dice.random(), 1 - 2**-53]) for _ in logits]
        probabilities = torch.softmax(warp(logits, params), dim=1)
        expected = walk(probabilities, torch.tensor(numbers, dtype=torch.float64)).tolist()
        before = logits.clone()
        assert draw(logits, params, numbers) == expected
        assert torch.equal(logits, before), "a hook may have kept them"
        alone = [draw(row[None], [one], [number])[0] for row, one, number in zip(logits, params, numbers, strict=True)]
        assert alone == expected, "whatever else is in the batch"


def test_rows_without_a_token_do_not_stop_the_others() -> None:
    logits = torch.zeros(5, 64)
    logits[0, 3], logits[1, 3], logits[2] = torch.nan, torch.inf, -torch.inf
    logits[3:, 7] = 50.0
    for settings_of_all in ({"temperature": 0}, {"top_p": 0.8}, {"top_k": 5}, {}):
        params = [SamplingParams(**settings_of_all)] * 4 + [SamplingParams(temperature=0)]
        assert Drawer(Room())(logits, params, [0.5] * 5) == [None, None, None, 7, 7]
