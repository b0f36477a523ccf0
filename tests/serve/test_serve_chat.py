"""Chat completions, asked by the official client."""

import json

import openai
import pytest

MODEL = "chatglm-tiny"
HELLO = [{"role": "user", "content": "你好"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12},
                "days": {"type": "integer"},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["city", "unit"],
        },
    },
}


def ask(client, messages=HELLO, **options):
    return client.chat.completions.create(model=MODEL, messages=messages, **({"temperature": 0} | options))


def streamed(client, **options):
    return list(ask(client, stream=True, **options))


def test_an_answer_has_the_form_of_the_format(client):
    answer = ask(client)
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content.strip() == choice.message.content != ""
    assert choice.finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("text", ["你好", "Hello!", "你是谁？", "What is the capital of France?"])
def test_a_stream_says_the_same(client, text):
    messages = [{"role": "user", "content": text}]
    whole = ask(client, messages)
    chunks = streamed(client, messages=messages)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_comes_last_and_only_when_asked_for(client):
    chunks = streamed(client, stream_options={"include_usage": True})
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_limit_is_told(client):
    answer = ask(client, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3
    assert streamed(client, max_completion_tokens=3)[-1].choices[0].finish_reason == "length"


def test_stop_strings_are_no_part_of_the_answer(client):
    whole = ask(client).choices[0].message.content
    word = whole[3:5]
    cut = ask(client, stop=[word]).choices[0]
    assert cut.message.content == whole[: whole.index(word)].rstrip()
    assert cut.finish_reason == "stop"
    chunks = streamed(client, stop=word)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == cut.message.content


def test_n_answers_differ_and_a_seed_repeats_them(client):
    options = {"n": 4, "temperature": 1.5, "top_p": 1.0, "seed": 7, "max_tokens": 12}
    first, second = ([c.message.content for c in ask(client, **options).choices] for _ in range(2))
    assert first == second
    assert len(set(first)) > 1
    chunks = streamed(client, **options)
    texts = ["".join(c.choices[0].delta.content or "" for c in chunks if c.choices[0].index == i) for i in range(4)]
    assert texts == first


def test_log_probabilities_belong_to_the_text(client):
    choice = ask(client, logprobs=True, top_logprobs=3).choices[0]
    entries = choice.logprobs.content
    spelled = b"".join(bytes(entry.bytes) for entry in entries).decode()
    assert spelled.strip() == choice.message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == entry.top_logprobs[0].logprob <= 0  # greedy takes the likeliest
    told = [e for chunk in streamed(client, logprobs=True, top_logprobs=0) for e in _logprobs(chunk)]
    assert [entry.token for entry in told] == [entry.token for entry in entries]


def _logprobs(chunk):
    found = chunk.choices[0].logprobs
    return found.content if found is not None else []


def test_a_bias_bans(client):
    first = ask(client, logprobs=True).choices[0].logprobs.content[0]
    ids = json.loads(_post(client, "/tokenize", {"prompt": "a" + first.token, "add_special_tokens": False}))["tokens"]
    banned = ask(client, logit_bias={str(ids[-1]): -100}, logprobs=True).choices[0]
    assert banned.logprobs.content[0].token != first.token


def _post(client, path, body):
    import httpx2

    return httpx2.post(str(client.base_url).removesuffix("/v1/") + path, json=body).text


# tools


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_required_call_always_parses_and_fits_its_schema(client, choice, temperature):
    options = {"tools": [WEATHER], "tool_choice": choice, "temperature": temperature, "seed": 3, "max_tokens": 400}
    answer = ask(client, [{"role": "user", "content": "北京天气怎么样？"}], **options)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    arguments = json.loads(message.tool_calls[0].function.arguments)
    assert isinstance(arguments["city"], str)
    assert arguments["unit"] in ("C", "F")


def test_calls_are_streamed_as_pieces_that_join_to_json(client):
    chunks = streamed(client, tools=[WEATHER], tool_choice="required", max_tokens=400)
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert all(call.index == 0 for call in calls)
    assert calls[0].id
    assert calls[0].function.name == "get_weather"
    assert calls[0].type == "function"
    assert {"city", "unit"} <= set(json.loads("".join(call.function.arguments or "" for call in calls)))
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_functions_are_the_older_form(client):
    answer = ask(client, functions=[WEATHER["function"]], function_call={"name": "get_weather"}, max_tokens=400)
    assert answer.choices[0].finish_reason == "function_call"
    assert json.loads(answer.choices[0].message.function_call.arguments)["unit"] in ("C", "F")


def test_a_whole_tool_conversation_is_read(client):
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "北京"}'}}
    messages = [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": [{"type": "text", "text": "北京天气？"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "晴，25 度"},
    ]
    assert ask(client, messages, tools=[WEATHER], max_tokens=20).choices[0].message.content


# forms


def test_json_of_a_schema(client):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 120}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    answer = ask(client, response_format=form, max_tokens=200)
    assert set(json.loads(answer.choices[0].message.content)) == {"name", "age"}


@pytest.mark.parametrize(
    ("form", "fits"),
    [({"regex": r"[a-c]{3}-\d{2}"}, r"[a-c]{3}-\d{2}"), ({"choice": ["yes", "no", "好"]}, "yes|no|好")],
)
def test_other_forms(client, form, fits):
    import re

    answer = ask(client, extra_body={"structured_outputs": form}, temperature=1.0, seed=1)
    assert re.fullmatch(fits, answer.choices[0].message.content)


# refusals


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tools": []}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"extra_body": {"modalities": ["audio"]}}, "modalities"),
        ({"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}, "chat_template_kwargs"),
        ({"extra_body": {"wrong_field": 1}}, "wrong_field"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"extra_body": {"structured_outputs": {"regex": "("}}}, "structured_outputs.regex"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_what_is_wrong_is_named(client, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **options)
    assert caught.value.param == param
    assert caught.value.body["type"] == "invalid_request_error"
    assert str(caught.value.request_id).startswith("req_")


def test_harmless_fields_are_ignored(client):
    assert ask(client, user="me", store=False, extra_body={"service_tier": "auto", "metadata": {"a": "b"}})


def test_an_unknown_model_is_404(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="../../etc/passwd", messages=HELLO)
    assert caught.value.code == "model_not_found"


def test_a_prompt_that_is_too_long_is_told_with_numbers(client):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, [{"role": "user", "content": "long " * 5000}])
    assert caught.value.code == "context_length_exceeded"
