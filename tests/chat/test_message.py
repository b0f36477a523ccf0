import copy
import pickle

import pytest

from chatglm.chat.message import NULL_TOOLS, Message, Role, as_messages, check_encodable, check_metadata
from chatglm.errors import PromptError


def test_roles_are_texts():
    assert Role("observation") is Role.OBSERVATION
    assert f"{Role.USER} {Role.USER.marker}" == "user <|user|>"
    assert Role.USER == "user"


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": "你好"},
        {"role": "assistant", "metadata": "", "content": "ok"},
        {"role": "assistant", "metadata": "get_weather", "content": "```python\ntool_call()\n```"},
        {"role": "system", "content": "s", "tools": [{"name": "a"}]},
        {"role": "system", "content": "s", "tools": []},
        {"role": "system", "content": "s", "tools": None},
        {"role": "user", "metadata": "小明", "content": "x"},
    ],
)
def test_official_dicts_come_back_as_they_were(item):
    message = Message.from_dict(copy.deepcopy(item))
    assert message.to_dict() == item
    assert Message.from_dict(message) is message
    assert pickle.loads(pickle.dumps(message)) == message  # noqa: S301


def test_ids_travel_only_when_asked():
    message = Message(Role.ASSISTANT, "a", ids=(1, 2))
    assert "ids" not in message.to_dict()
    assert Message.from_dict(message.to_dict(with_ids=True)) == message


def test_null_tools_are_not_no_tools():
    null = Message.from_dict({"role": "system", "content": "s", "tools": None})
    assert null.tools is NULL_TOOLS
    assert copy.deepcopy(null).tools is NULL_TOOLS
    assert null.text() == "s\nnull"
    assert Message.from_dict({"role": "system", "content": "s"}).text() == "s"


def test_tools_are_written_as_in_training():
    tools = [{"name": "查", "p": {"x": [], "y": {}}, "b": True}]
    expected = (
        's\n[\n    {\n        "name": "查",\n        "p": {\n            "x": [],\n            "y": {}\n        },\n'
    )
    assert Message(Role.SYSTEM, "s", tools=tools).text() == expected + '        "b": true\n    }\n]'
    assert Message(Role.USER, "s", tools=tools).text() == "s"


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"role": "tool", "content": "x"}, "'tool'.*system, user, assistant, observation"),
        ({"role": "user"}, "no key 'content'"),
        ({"content": "x"}, "no key 'role'"),
        ({"role": "user", "content": None}, "content of a user message is None"),
        ({"role": "user", "content": 5}, "content of a user message is 5"),
        ({"role": "user", "content": "x", "metadata": 5}, "metadata of a user message is 5"),
        ({"role": "user", "content": "x", "ids": [1]}, "only assistant messages are generated"),
        ("hello", "'hello'; it must be a dict"),
    ],
)
def test_bad_dicts_say_what_is_wrong(item, says):
    with pytest.raises(PromptError, match=says):
        as_messages([item])


def test_tools_that_are_no_json_say_so():
    with pytest.raises(PromptError, match="cannot be written as JSON"):
        Message(Role.SYSTEM, "s", tools=[object()]).text()


@pytest.mark.parametrize("name", ["a\nb", "a\r", "a\x00b", " a", "a ", "", "x<|user|>", "a\u2028b"])
def test_metadata_cannot_leave_its_line(name):
    with pytest.raises(PromptError, match="the name is"):
        check_metadata(name, "the name")


@pytest.mark.parametrize("name", ["interpreter", "get_weather", "查询天气", "a-b.c", "Ask Google"])
def test_metadata_may_be_any_visible_name(name):
    check_metadata(name, "the name")


def test_lone_surrogates_are_named():
    check_encodable("👋", "the text")
    with pytest.raises(PromptError, match=r"the text holds a lone surrogate U\+D83D at position 1"):
        check_encodable("a\ud83d", "the text")
