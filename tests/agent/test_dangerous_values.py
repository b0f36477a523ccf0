"""A dangerous tool runs nothing of its own - not even the types of its parameters - before the user has said yes."""

from dataclasses import dataclass

import pytest

from chatglm.agent.actions import Actions
from chatglm.chat.message import ToolCall
from chatglm.chat.parser import Segment
from chatglm.tools import ToolBox, tool

DONE: list[str] = []


@dataclass
class Target:
    path: str

    def __post_init__(self):
        DONE.append("built")


@tool(dangerous=True)
def remove(target: Target) -> str:
    """Removes a file."""
    DONE.append("removed")
    return target.path


@pytest.mark.parametrize(
    ("arguments", "answer", "status", "done"),
    [
        ({"target": {"path": "a"}}, True, "ok", ["asked", "built", "removed"]),
        ({"target": {"path": "a"}}, False, "refused", ["asked"]),
        ({"target": {"path": 1.5}}, True, "invalid", []),
        ({"path": "a"}, True, "invalid", []),
    ],
)
def test_nothing_is_built_before_the_question(arguments, answer, status, done):
    DONE.clear()

    def ask(call):
        DONE.append("asked")
        return answer

    written = Segment("tool_call", "remove", "", "", (), ToolCall("remove", arguments, ""))
    actions = Actions(ToolBox([remove]), ask=ask)
    observation, _ = actions.carry_out(written, actions.allows(written) is True, lambda: False)
    assert (observation.status, done) == (status, DONE)
