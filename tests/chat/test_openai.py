import json

import pytest

from chatglm.chat.message import Message, Role
from chatglm.chat.openai import from_openai, plain_tool
from chatglm.chat.template import TOOLS_PROMPT, validate
from chatglm.errors import PromptError

FUNCTION = {"name": "get_weather", "description": "天气", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}


def call(name, arguments):
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_official_messages_stay_as_they_are():
    items = [
        {"role": "system", "content": "s", "tools": [TOOL]},
        {"role": "user", "content": "u"},
        {"role": "assistant", "metadata": "a", "content": "c"},
        {"role": "observation", "content": "o"},
    ]
    assert [message.to_dict() for message in from_openai(items)] == items
    assert from_openai([Message(Role.USER, "u")]) == [Message(Role.USER, "u")]


def test_a_conversation_with_calls():
    messages = from_openai(
        [
            {"role": "developer", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "北京"}, {"type": "text", "text": "和上海"}]},
            {
                "role": "assistant",
                "content": "我来查。",
                "tool_calls": [call("a", '{"city": "北京", "days": 2}'), call("b", {"x": None})],
            },
            {"role": "tool", "tool_call_id": "1", "content": "22"},
            {"role": "tool", "tool_call_id": "2", "content": "25"},
            {"role": "assistant", "content": None, "tool_calls": [call("a", "")]},
            {"role": "function", "name": "a", "content": "30"},
            {"role": "assistant", "content": "好"},
        ]
    )
    assert messages == [
        Message(Role.SYSTEM, "s"),
        Message(Role.USER, "北京和上海"),
        Message(Role.ASSISTANT, "我来查。"),
        Message(Role.ASSISTANT, "```python\ntool_call(city='北京', days=2)\n```", "a"),
        Message(Role.ASSISTANT, "```python\ntool_call(x=None)\n```", "b"),
        Message(Role.OBSERVATION, "22"),
        Message(Role.OBSERVATION, "25"),
        Message(Role.ASSISTANT, "```python\ntool_call()\n```", "a"),
        Message(Role.OBSERVATION, "30"),
        Message(Role.ASSISTANT, "好"),
    ]
    validate(messages)


def test_the_older_spelling_of_a_call():
    item = {"role": "assistant", "content": None, "function_call": {"name": "a", "arguments": "{}"}}
    assert from_openai([item]) == [Message(Role.ASSISTANT, "```python\ntool_call()\n```", "a")]


def test_tools_go_into_the_system_message():
    user = {"role": "user", "content": "u"}
    assert from_openai([user], [TOOL])[0] == Message(Role.SYSTEM, TOOLS_PROMPT, tools=[FUNCTION])
    assert from_openai([{"role": "system", "content": "s"}, user], [FUNCTION])[0].tools == [FUNCTION]
    assert from_openai([user], []) == from_openai([user]) == [Message(Role.USER, "u")]
    assert list(plain_tool(TOOL)) == list(FUNCTION)


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"role": "critic", "content": "x"}, "unknown role 'critic'"),
        ({"role": "user", "content": None}, "content of a user message is None"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "only text parts"),
        ({"role": "user", "content": "x", "tool_calls": [call("a", {})]}, "only assistant messages make them"),
        ({"role": "assistant"}, "no key 'content'"),
        ({"role": "assistant", "tool_calls": [call("a", "{")]}, "must be JSON"),
        ({"role": "assistant", "tool_calls": [call("a", "[1]")]}, "must be an object"),
        ({"role": "assistant", "tool_calls": [call("a\nb", {})]}, "one line"),
        ({"role": "assistant", "tool_calls": [call("<|user|>", {})]}, "role marker"),
        ({"role": "assistant", "tool_calls": [{}]}, "a function with a name"),
        ({"role": "assistant", "tool_calls": ["a"]}, "a function with a name"),
    ],
)
def test_what_cannot_be_converted_says_why(item, says):
    with pytest.raises(PromptError, match=says):
        from_openai([item])


def test_tools_once_and_as_dicts():
    with pytest.raises(PromptError, match="given twice"):
        from_openai([{"role": "system", "content": "s", "tools": [FUNCTION]}], [TOOL])
    with pytest.raises(PromptError, match="must be a dict"):
        from_openai([{"role": "user", "content": "u"}], [json.dumps(TOOL)])
