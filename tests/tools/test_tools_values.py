"""When code of the types of a tool's parameters is run: inside the call, once, within its time."""

import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import pytest
from pydantic import AfterValidator, BaseModel, field_validator

from chatglm.chat.message import ToolCall
from chatglm.tools import ToolBox, tool

RUN = []
RELEASE = threading.Event()


@pytest.fixture(autouse=True)
def _nothing_was_run():
    RUN.clear()
    RELEASE.clear()
    yield
    RELEASE.set()


@dataclass
class Place:
    city: str

    def __post_init__(self):
        RUN.append((threading.current_thread(), self.city))
        if self.city == "nowhere":
            raise ValueError("no such city")
        if self.city == "far":
            RELEASE.wait(20)
        if self.city == "exit":
            raise SystemExit(3)


class Model(BaseModel):
    city: str

    @field_validator("city")
    @classmethod
    def watch(cls, city):
        return Place(city).city


def watched(city: str) -> str:
    return Place(city).city


@tool(dangerous=True, timeout=0.3)
def by_class(place: Place) -> str:
    """Takes a place."""
    return place.city


@tool(dangerous=True, timeout=0.3)
def by_model(place: Model) -> str:
    """Takes a place."""
    return place.city


@tool(dangerous=True, timeout=0.3)
def by_function(place: Annotated[str, AfterValidator(watched)]) -> str:
    """Takes a place."""
    return place


@tool(dangerous=True, timeout=0.3)
def by_name(**places: Place) -> str:
    """Takes places."""
    return ", ".join(place.city for place in places.values())


ALL = pytest.mark.parametrize("made", [by_class, by_model, by_function, by_name], ids=lambda made: made.name)


def arguments(made, city):
    return {"place": city if made is by_function else {"city": city}}


@ALL
def test_nothing_is_run_before_the_call(made):
    for value in (arguments(made, "x"), {"place": 3}, {"place": {"town": 1}}, {}):
        made.check(value)
    assert RUN == []


@ALL
def test_it_is_run_once_in_the_thread_of_the_call(made):
    assert ToolBox([made]).call(ToolCall(made.name, arguments(made, "x"), "")).text == "x"
    assert [city for _, city in RUN] == ["x"]
    assert RUN[0][0] is not threading.current_thread()


@ALL
def test_it_has_the_time_of_the_call(made):
    box = ToolBox([made])
    found = box.call(ToolCall(made.name, arguments(made, "far"), ""))
    assert (found.kind, box.abandoned) == ("timeout", 1)
    assert found.seconds < 2
    RELEASE.set()


@ALL
def test_what_a_type_does_not_accept_are_wrong_arguments(made):
    found = ToolBox([made]).call(ToolCall(made.name, arguments(made, "nowhere"), ""))
    assert found.kind == "arguments"
    assert "which is not accepted: " in found.text
    assert "no such city" in found.text
    assert found.text.startswith(f"Error: wrong arguments for {made.name}: place")
    assert len(RUN) == 1


def test_an_exit_of_a_type_is_an_exception_of_the_call():
    found = ToolBox([by_class]).call(ToolCall("by_class", arguments(by_class, "exit"), ""))
    assert (found.kind, found.error) == ("exception", "by_class failed: SystemExit: 3")


@pytest.mark.parametrize("text", ["20260102", "1700000000", "morgen", "2026-13-01T00:00:00", "12:30"])
def test_what_is_no_moment_is_refused_before_the_call(text):
    """Pydantic takes a bare number for seconds since 1970."""

    @tool
    def at(when: datetime) -> str:
        """Takes a moment."""
        return str(when)

    assert at.check({"when": text})[1] == [
        f'when must be of the form date-time like 2026-01-31T08:30:00Z, not "{text}"'
    ]
    assert ToolBox([at]).call(ToolCall("at", {"when": "2026-01-02T03:04:05"}, "")).text == "2026-01-02 03:04:05"
