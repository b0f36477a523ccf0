"""Every event becomes JSON and comes back as it was."""

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm.agent.events import ImageProduced, Notice, TaskEvent, ToolCallDone, TurnDone
from chatglm.agent.wire import KINDS, from_json, to_json
from chatglm.chat.message import Done, ToolCall
from chatglm.errors import SessionError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
CALLS = st.builds(ToolCall, arguments=st.none() | st.dictionaries(st.text(), JSON))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SPECIAL = {"call": CALLS, "seconds": FINITE, "writing_seconds": FINITE, "first_token_seconds": st.none() | FINITE}


def any_of(kind):
    return st.builds(kind, **{name: values for name, values in SPECIAL.items() if name in kind.__annotations__})


@given(st.one_of([any_of(kind) for kind in (*get_args(TaskEvent), Done)]))
def test_there_and_back(event):
    text = json.dumps(to_json(event), allow_nan=False)
    assert from_json(json.loads(text)) == event


def test_what_it_looks_like():
    assert to_json(ImageProduced(3, "image/png", b"\x89PNG")) == {
        "event": "image_produced", "id": 3, "mime": "image/png", "data": "iVBORw=="
    }  # fmt: skip
    assert to_json(ToolCallDone(ToolCall("add", {"a": 1}, "raw"), 1)) == {
        "event": "tool_call_done", "call": {"name": "add", "arguments": {"a": 1}, "raw": "raw", "error": None}, "id": 1
    }  # fmt: skip
    assert len(KINDS) == len(get_args(TaskEvent)) + 1


NOTICE = to_json(Notice("restarted", 1))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (None, "is no event"),
        ({"event": "dance"}, "is no event"),
        ({"event": []}, "is no event"),
        ({**NOTICE, "id": True}, "notice.id is True; it must be int"),
        ({**NOTICE, "kind": "x"}, "notice.kind is 'x'"),
        ({**NOTICE, "kind": []}, "notice.kind is"),
        ({**NOTICE, "more": 1}, "notice has the fields"),
        ({"event": "notice"}, "they must be kind, id"),
        ({"event": "image_produced", "id": 1, "mime": "m", "data": "?"}, "image_produced.data is '.'"),
        ({"event": "tool_call_done", "id": 1, "call": "x"}, "tool_call_done.call has the fields 'x'"),
        ({"event": "plan_made", "steps": [1], "revision": 0}, "plan_made.steps is"),
        ({"event": "done", "reason": None, "stop_id": None}, "done.reason is None"),
    ],
)
def test_what_is_no_event(item, message):
    with pytest.raises(SessionError, match=message):
        from_json(item)


def test_a_word_that_is_none_of_a_fields_words_is_told_all_of_them() -> None:
    with pytest.raises(SessionError, match=r"reason is 'x'; it must be one of '.*'length'"):
        from_json(to_json(TurnDone("length", 0, 1, 2, 3.0, True, 1.0, 2.0)) | {"reason": "x"})
