"""Quantization schemes as values: names, dictionaries, and what does not go together."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm.errors import ConfigError
from chatglm.quant.scheme import OFFICIAL, QuantScheme

NAMES = [
    "int4",
    "int4-g64",
    "int4-g128",
    "int4-asym",
    "int4-g64-asym",
    "int8",
    "int8-g32",
    "int4-rowwise",
    "int8-rowwise",
]


def possible(bits: int, group_size: int | None, symmetric: bool, *rest: Any) -> bool:
    return symmetric or (bits == 4 and group_size is not None)


SCHEMES = [
    QuantScheme(*values)
    for values in itertools.product(
        (4, 8), (None, 32, 64, 128), (True, False), (None, 4, 8), (None, 8), ((), ("*.dense", "lm_head"))
    )
    if possible(*values)
]


@given(st.sampled_from(SCHEMES))
def test_a_file_can_hold_it(scheme: QuantScheme) -> None:
    assert QuantScheme.from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme
    again = QuantScheme.parse(scheme.name)
    assert (again.bits, again.group_size, again.symmetric) == (scheme.bits, scheme.group_size, scheme.symmetric)
    assert QuantScheme.parse(scheme) is scheme
    assert scheme.is_official == (scheme == OFFICIAL[scheme.bits])
    if scheme.head_bits is not None:
        head = scheme.for_head()
        assert head.bits == scheme.head_bits
        assert head.group_size == (None if head.bits == 8 else scheme.group_size or 32)


def test_names() -> None:
    assert QuantScheme.parse(4) == QuantScheme.parse("4") == QuantScheme.parse("INT4") == QuantScheme()
    assert QuantScheme.parse(8) == QuantScheme(8, None)
    assert QuantScheme.parse("int4-g128-asym") == QuantScheme(4, 128, False)
    assert QuantScheme.parse("int4-rowwise") == OFFICIAL[4]


@pytest.mark.parametrize("name", ["", "int5", "int4-", "int4-g32-g32", "int44", "fp8", True, None, 4.0, 16, "int4 "])
def test_no_such_name(name: Any) -> None:
    with pytest.raises(ConfigError, match="int4-g64"):
        QuantScheme.parse(name)


@pytest.mark.parametrize("name", ["int4-g16", "int8-asym", "int4-rowwise-asym", "int8-g64-asym"])
def test_a_name_of_what_does_not_exist(name: str) -> None:
    with pytest.raises(ConfigError):
        QuantScheme.parse(name)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bits": 3}, "bits is 3; it must be one of 4, 8"),
        ({"bits": True}, "bits is True"),
        ({"group_size": 16}, "group_size is 16"),
        ({"group_size": 0}, "group_size is 0"),
        ({"symmetric": False, "bits": 8}, "zero points exist for 4 bits in groups"),
        ({"symmetric": False, "group_size": None}, "zero points"),
        ({"head_bits": 2}, "head_bits is 2"),
        ({"embedding_bits": 4}, "embedding_bits is 4"),
        ({"skip": "dense"}, "skip is 'dense'"),
    ],
)
def test_values_that_do_not_go_together(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        QuantScheme(**values)


def test_a_newer_file() -> None:
    with pytest.raises(ConfigError, match=r"unknown entries \['rotation'\]"):
        QuantScheme.from_dict({"bits": 4, "rotation": "hadamard"})


def test_names_of_layers_to_skip() -> None:
    scheme = QuantScheme(skip=["*.0.*", "lm_head"])  # type: ignore[arg-type]  # as JSON gives it
    assert scheme.skip == ("*.0.*", "lm_head")
    assert scheme.skips("encoder.layers.0.mlp.dense_h_to_4h")
    assert scheme.skips("lm_head")
    assert not scheme.skips("encoder.layers.10.mlp.dense_h_to_4h")
    assert not scheme.skips("LM_HEAD")
