"""Completions, embeddings, responses, messages, tokens, models, health and metrics, asked by real clients."""

import base64
import json
import math
import struct

import anthropic
import httpx2
import openai
import pytest

MODEL = "chatglm-tiny"
GREEDY = {"extra_body": {"temperature": 0}}  # of the messages client, which does not know it
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
}


@pytest.fixture(scope="session")
def http(server):
    with httpx2.Client(base_url=server.url, timeout=120) as one:
        yield one


@pytest.fixture(scope="session")
def claude(server):
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as one:
        yield one


# completions


def complete(client, prompt, **options):
    return client.completions.create(model=MODEL, prompt=prompt, **({"temperature": 0, "max_tokens": 8} | options))


def test_prompts_as_text_and_as_ids_say_the_same(client, http):
    ids = http.post("/tokenize", json={"prompt": "Hello, my"}).json()["tokens"]
    whole = complete(client, "Hello, my").choices[0].text
    assert complete(client, ids).choices[0].text == whole
    many = complete(client, ["Hello, my", "你好"]).choices
    assert [choice.index for choice in many] == [0, 1]
    assert many[0].text == whole
    assert complete(client, [ids, ids]).choices[1].text == whole
    chunks = complete(client, "Hello, my", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole


def test_likelihoods_as_evaluation_programs_ask_for_them(client, http):
    ids = http.post("/tokenize", json={"prompt": "What is the capital of France?"}).json()["tokens"]
    answers = complete(client, [ids, ids], echo=True, logprobs=1, max_tokens=1)
    for choice in answers.choices:
        told = choice.logprobs
        assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(ids) + 1
        assert told.token_logprobs[0] is None
        assert all(value <= 0 for value in told.token_logprobs[1:])
    scores = [choice.logprobs.token_logprobs for choice in answers.choices]
    assert scores[0][1:] == pytest.approx(scores[1][1:], abs=1e-4)  # also where the second found its prompt cached
    nothing = complete(client, ids, echo=True, logprobs=1, max_tokens=0).choices[0]
    assert len(nothing.logprobs.tokens) == len(ids)


def test_the_best_of_several(client):
    options = {"temperature": 1.5, "top_p": 1.0, "seed": 4, "logprobs": 0}
    every = complete(client, "Hello", n=6, **options).choices
    best = complete(client, "Hello", best_of=6, **options).choices
    means = [sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs) for c in every]
    assert [choice.text for choice in best] == [every[means.index(max(means))].text]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [10**7]}, "prompt"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "n": 3, "best_of": 2}, "best_of"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
    ],
)
def test_wrong_completions(client, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, **options)
    assert caught.value.param == param


# embeddings


def test_embeddings(client, http):
    texts = ["北京是中国的首都", "Paris is the capital of France", "北京是中国的首都"]
    made = client.embeddings.create(model=MODEL, input=texts)  # as base64, which the client reads
    vectors = [item.embedding for item in made.data]
    assert [item.index for item in made.data] == [0, 1, 2]
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-5)
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-2)
    assert math.fsum(value * value for value in vectors[0]) == pytest.approx(1, abs=1e-5)
    counted = sum(http.post("/tokenize", json={"prompt": text}).json()["count"] for text in texts)
    assert made.usage.prompt_tokens == counted
    plain = http.post("/v1/embeddings", json={"model": MODEL, "input": texts[0], "dimensions": 16}).json()
    assert len(plain["data"][0]["embedding"]) == 16
    raw = http.post("/v1/embeddings", json={"model": MODEL, "input": texts[0], "encoding_format": "base64"}).json()
    packed = base64.b64decode(raw["data"][0]["embedding"])
    assert list(struct.unpack(f"<{len(packed) // 4}f", packed)) == pytest.approx(vectors[0], abs=1e-6)


# responses


def test_responses(client):
    answer = client.responses.create(model=MODEL, input="你好", temperature=0)
    assert answer.status == "completed"
    assert answer.output_text
    events = list(client.responses.create(model=MODEL, input="你好", temperature=0, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == answer.output_text
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == answer.output_text


def test_responses_that_call(client):
    tool = {"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": True}
    options = {"model": MODEL, "input": "天气？", "tools": [tool], "tool_choice": "required", "max_output_tokens": 300}
    answer = client.responses.create(**options, temperature=0)
    [call] = answer.output
    assert call.type == "function_call"
    assert json.loads(call.arguments)["unit"] in ("C", "F")
    events = list(client.responses.create(**options, temperature=0, stream=True))
    pieces = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
    assert json.loads(pieces) == json.loads(call.arguments)
    again = [
        {"role": "user", "content": "天气？"},
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "晴"},
    ]
    assert client.responses.create(model=MODEL, input=again, max_output_tokens=5).status == "incomplete"


def test_responses_are_not_kept(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input="a", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"


# messages


def test_messages(claude):
    hello = {"model": MODEL, "max_tokens": 40, "messages": [{"role": "user", "content": "你好"}], **GREEDY}
    answer = claude.messages.create(**hello)
    assert answer.stop_reason == "end_turn"
    assert answer.content[0].text
    with claude.messages.stream(**hello) as stream:
        assert "".join(stream.text_stream) == answer.content[0].text
        assert stream.get_final_message().usage.output_tokens == answer.usage.output_tokens
    counted = claude.messages.count_tokens(model=MODEL, messages=hello["messages"])
    assert counted.input_tokens == answer.usage.input_tokens
    cut = claude.messages.create(**{**hello, "max_tokens": 2})
    assert cut.stop_reason == "max_tokens"
    word = answer.content[0].text[2:4]
    stopped = claude.messages.create(**hello, stop_sequences=[word])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)


def test_messages_that_call(claude):
    tool = {"name": "get_weather", "description": "weather", "input_schema": WEATHER}
    asked = {"role": "user", "content": "天气？"}
    options = {"model": MODEL, "max_tokens": 300, "tools": [tool], "tool_choice": {"type": "any"}, **GREEDY}
    answer = claude.messages.create(messages=[asked], **options)
    assert answer.stop_reason == "tool_use"
    [use] = answer.content
    assert use.input["unit"] in ("C", "F")
    with claude.messages.stream(messages=[asked], **options) as stream:
        assert stream.get_final_message().content[0].input == use.input
    result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "晴"}]}
    said = [asked, {"role": "assistant", "content": [use.model_dump()]}, {"role": "user", "content": [result]}]
    assert claude.messages.create(model=MODEL, max_tokens=5, messages=said, tools=[tool]).usage.output_tokens > 0


def test_errors_have_the_form_of_their_format(claude):
    with pytest.raises(anthropic.NotFoundError) as caught:
        claude.messages.create(model="other", max_tokens=5, messages=[{"role": "user", "content": "a"}])
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == "not_found_error"


# the rest


def test_models(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_tokens_go_there_and_back(http):
    found = http.post("/tokenize", json={"prompt": "你好 world", "add_special_tokens": False}).json()
    assert found["count"] == len(found["tokens"])
    assert http.post("/detokenize", json={"tokens": found["tokens"]}).json()["prompt"] == "你好 world"
    assert http.get("/tokenizer_info").json()["eos_token"]


def _metric(http, name):
    line = next(line for line in http.get("/metrics").text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def test_health_and_metrics(http, client):
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").status_code == 200
    before = _metric(http, "chatglm_time_between_tokens_seconds_count")
    client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], max_tokens=5, extra_body={"ignore_eos": True}
    )
    told = http.get("/metrics").text
    assert _metric(http, "chatglm_time_between_tokens_seconds_count") > before
    assert 'chatglm_requests_total{route="/v1/chat/completions",status="200"}' in told
    assert "chatglm_time_to_first_token_seconds_bucket" in told
    assert "chatglm_engine_steps_total" in told


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405)],
)
def test_routes_that_are_not_there(http, method, path, status):
    answer = http.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["type"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b'{"model": 1}', b"\xff\xfe", b"[" * 100_000])
def test_bodies_that_are_no_requests(http, body):
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"):
        answer = http.post(path, content=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"]
