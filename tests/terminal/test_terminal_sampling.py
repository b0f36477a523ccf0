"""Sampling options are checked before anything is loaded."""

import math

import pytest

from chatglm.terminal.sampling import LARGEST_SEED, Sampling, SamplingError, check_seed


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("temperature", [-0.1, math.nan, math.inf], [0, 0.01, 2.5]),
        ("top_p", [0, -1, 1.01, math.nan], [0.01, 1]),
        ("top_k", [-1], [0, 1, 50]),
        ("repetition_penalty", [0, -1, math.inf], [0.5, 1.2]),
        ("max_new_tokens", [0, -5], [1]),
        ("max_length", [0], [1, 8192]),
    ],
)
def test_values(name, wrong, right):
    for value in right:
        assert getattr(Sampling(**{name: value}), name) == value
    for value in wrong:
        with pytest.raises(SamplingError, match=rf"--{name.replace('_', '-')} is {value}; it must be"):
            Sampling(**{name: value})


def test_seed():
    assert [check_seed(seed) for seed in (None, 0, LARGEST_SEED)] == [None, 0, LARGEST_SEED]
    for seed in (-1, LARGEST_SEED + 1):
        with pytest.raises(SamplingError, match="--seed is"):
            check_seed(seed)


def test_the_defaults_are_the_official_ones():
    assert Sampling().generation_options() == {"temperature": 0.8, "top_p": 0.8, "do_sample": True}


@pytest.mark.parametrize("sampling", [Sampling(greedy=True, top_k=5), Sampling(temperature=0)])
def test_greedy_passes_no_sampling_option(sampling):
    assert sampling.generation_options() == {"do_sample": False}


def test_what_was_set_is_passed_on():
    options = Sampling(top_k=0, repetition_penalty=1.1, max_new_tokens=7).generation_options()
    assert options["top_k"] == 0
    assert options["repetition_penalty"] == 1.1
    assert options["max_new_tokens"] == 7
    assert "greedy" not in options
    assert "max_length" not in options
