"""The end-to-end judge: it really talks, calls and runs, and its outcomes say what happened."""

from collections.abc import Iterator
from itertools import islice

import pytest

from chatglm.demo import WEIGHTS
from chatglm.demo.conversation import with_code, with_tools
from chatglm.demo.exact import acted
from chatglm.demo.journeys import Judged, plain_answers


@pytest.fixture(scope="module")
def judged() -> Iterator[Judged]:
    with Judged(WEIGHTS) as opened:
        yield opened


def test_it_says_what_the_model_says(judged: Judged) -> None:
    assert dict(plain_answers(judged, ["Hello!"])) == {"Hello!": "Hello! Nice to meet you. How can I help you?"}


def test_a_model_without_tools_fails_the_tool_sets_and_stops(judged: Judged) -> None:
    for one in islice(acted(with_tools, "train", 3), 2):
        outcome = judged.with_tools(one)
        assert (outcome.name, outcome.call, outcome.values) == (False, False, None)
    for one in islice(acted(with_code, "train", 3), 2):
        assert judged.with_code(one).value in (False, None)


def test_every_set_is_in_the_table(judged: Judged) -> None:
    table = judged.table(1, seed=2)
    for name in ("tools, new families: call", "tools, new entities: values", "code, seen: value", "code, seen: second"):
        assert name in table
    assert {"says that it does not know", "stops by itself"} <= set(table)
