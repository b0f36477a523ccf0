"""What clients say of tools: `strict`, and which result is which call's."""

import json

import jsonschema
import openai
import pytest

from chatglm.loading import load
from chatglm.serve.protocol.chat import ChatRequest, FunctionTool
from chatglm.serve.protocol.messages import MessagesRequest
from chatglm.serve.structured import Forms

MODEL = "chatglm-tiny"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer():
    return load()[1]


@pytest.fixture(scope="module")
def fits(tokenizer):
    """Whether an answer of some segments is one that a strict and a loose tool allow."""
    tools = [FunctionTool(name="strict.one", parameters=SCHEMA, strict=True), FunctionTool(name="loose")]
    made = Forms(tokenizer, max_bytes=10_000, max_depth=9).of_answer(tools)

    def check(*segments):
        ids = []
        for segment in segments:
            ids += [tokenizer.chat_specials["<|assistant|>"]] if ids else []
            ids += tokenizer(segment, add_special_tokens=False)["input_ids"]
        matcher = made().matcher
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    return check


CALL = "strict.one\n ```python\ntool_call(city='北京', unit='C')\n```"


@pytest.mark.parametrize(
    ("segments", "right"),
    [
        (["\n 你好"], True), (["hello there"], True), (["\n several\nlines"], True), ([CALL], True),
        (["\n Let me see.", CALL], True), ([CALL, "loose\n tool_call(1"], True), (["strict.one"], True),
        ([CALL.replace("'C'", "'K'")], False), (["strictXone\n x"], False), (["strict.one\nanything"], False),
        ([CALL.replace(", unit='C'", "")], False), (["\n Let me see.", "other\n x"], False),
    ],
)  # fmt: skip
def test_calls_of_strict_tools_fit_and_all_else_is_free(fits, segments, right):
    assert fits(*segments) == right


@pytest.mark.parametrize("seed", range(2))
def test_a_strict_call_that_is_made_fits_its_schema(client, seed):
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA, "strict": True}}
    asked = [{"role": "user", "content": "北京天气怎么样？"}]
    options = {"tools": [tool], "temperature": 1.5, "top_p": 1.0, "seed": seed, "max_tokens": 200}
    message = client.chat.completions.create(model=MODEL, messages=asked, **options).choices[0].message
    for call in message.tool_calls or ():
        jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
    assert message.tool_calls or message.content is not None


def call(name):
    return {"id": name, "type": "function", "function": {"name": "f", "arguments": "{}"}}


def conversation(calls, results):
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [call(name) for name in calls]}]
    return [*said, *({"role": "tool", "tool_call_id": name, "content": f"result {name}"} for name in results)]


def test_results_are_read_in_the_order_of_their_calls():
    asked = ChatRequest.model_validate({"model": MODEL, "messages": conversation("abc", "cab")})
    assert [message.tool_call_id for message in asked.said[2:]] == ["a", "b", "c"]
    assert asked.said[:2] == asked.messages[:2]


@pytest.mark.parametrize(("calls", "results"), [("a", "b"), ("", "a"), ("ab", "aa")])
def test_a_result_that_no_call_waits_for_is_refused(client, calls, results):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=conversation(calls or "x", results))
    assert caught.value.param == f"messages[{1 + len(results)}].tool_call_id"


def test_the_failure_of_a_tool_is_told_to_the_model():
    def told(content, **more):
        use = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
        result = {"type": "tool_result", "tool_use_id": "a", "content": content, **more}
        messages = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
        return MessagesRequest(model=MODEL, max_tokens=1, messages=messages).chat().messages[-1].content

    assert told("no such city") == "no such city"
    assert told("no such city", is_error=True) == "Error: no such city"
