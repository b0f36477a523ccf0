"""Requests nobody would send: no route fails, and every refusal is in the form of its format."""

import itertools

import httpx2
import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running_server import RunningServer
from schema_values import values

MODEL = "chatglm-tiny"
SAID = [{"role": "user", "content": "hi"}]
TOOL = {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}}
BODIES = {
    "/v1/chat/completions": {
        "model": MODEL, "messages": SAID, "max_tokens": 1, "max_completion_tokens": 1, "n": 1, "stop": ["x"], "seed": 1,
        "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1}, "temperature": 1, "top_p": 0.5, "top_k": 3,
        "min_p": 0.1, "presence_penalty": 0.1, "frequency_penalty": 0.1, "repetition_penalty": 1.1, "min_tokens": 0,
        "bad_words": ["x"], "stop_token_ids": [7], "response_format": {"type": "json_object"}, "user": "me",
        "tools": [{"type": "function", "function": TOOL}], "tool_choice": "auto", "parallel_tool_calls": True,
        "stream": True, "stream_options": {"include_usage": True}, "chat_template_kwargs": {}, "ignore_eos": False,
        "structured_outputs": {"regex": "a"}, "functions": [TOOL], "function_call": "auto",
    },
    "/v1/completions": {
        "model": MODEL, "prompt": "hi", "max_tokens": 1, "best_of": 1, "echo": True, "logprobs": 1, "suffix": "",
    },
    "/v1/responses": {
        "model": MODEL, "input": "hi", "max_output_tokens": 1, "instructions": "x",
        "text": {"format": {"type": "text"}},
        "tools": [{"type": "function", **TOOL}], "tool_choice": "auto", "stream": False, "previous_response_id": None,
    },
    "/v1/messages": {
        "model": MODEL, "messages": SAID, "max_tokens": 1, "system": "x", "stop_sequences": ["x"], "temperature": 0.5,
        "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"}, "metadata": {},
    },
    "/v1/messages/count_tokens": {"model": MODEL, "messages": SAID},
    "/v1/embeddings": {"model": MODEL, "input": "hi", "encoding_format": "float", "dimensions": 8, "pooling": "mean"},
    "/tokenize": {"model": MODEL, "prompt": "hi", "messages": SAID, "add_special_tokens": True},
    "/detokenize": {"model": MODEL, "tokens": [1]},
    "/v1/batches": {
        "input_file_id": "file-" + "0" * 32, "endpoint": "/v1/completions", "completion_window": "24h", "metadata": {},
    },
    "/v1/load_lora_adapter": {"lora_name": "x", "lora_path": "x"},
    "/v1/unload_lora_adapter": {"lora_name": "x"},
    "/v1/agent/conversations": {"system": "x", "temperature": 1, "top_p": 0.5, "seed": 1, "max_rounds": 1},
    "/": {"prompt": "hi", "history": [], "max_length": 60, "top_p": 0.5, "temperature": 0.5},
}  # fmt: skip
JUNK = [
    None, True, -1, 0, 0.5, 10**30, 1e308, "", "x", "\x00", "你" * 3000, [], [None], [[]], [{}], {}, {"type": "x"},
    {"a": [{"b": None}]}, ["a", 1], [[1, "a"]], [-1], [2**70], {"role": "user"}, [{"role": "user", "content": [{}]}],
    {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}, {"regex": "("}, {"grammar": "start: start"},
]  # fmt: skip
PLACES = [(path, field) for path, body in BODIES.items() for field in body]


@pytest.fixture(scope="module")
def everything(python, tmp_path_factory):
    """With every route there is."""
    folder = str(tmp_path_factory.mktemp("adapters"))
    options = ["--legacy", "--agent", "--allow-lora", folder, "--max-tokens", "4", "--max-conversations", "100000"]
    running = RunningServer(python, *options, "--log-level", "error")
    yield running
    running.end()


@pytest.fixture(scope="module")
def http(everything):
    with httpx2.Client(base_url=everything.url, timeout=120) as one:
        yield one


@pytest.fixture(scope="module")
def answers(http):
    """What the description says of the answers of each route."""
    contents = {
        path: operations["post"]["responses"]["200"]["content"]
        for path, operations in http.get("/openapi.json").json()["paths"].items()
        if "post" in operations
    }
    schemas = {path: content["application/json"]["schema"] for path, content in contents.items() if path in BODIES}
    return {path: jsonschema_rs.validator_for(schema) for path, schema in schemas.items()}


def check(answer, path, answers):
    """A status that is no failure of the server, and a body in the form of its format, as it is described."""
    assert answer.status_code < 500, answer.text
    if answer.status_code < 400:
        if answer.headers["content-type"] == "application/json":
            answers[path].validate(answer.json())
        return
    error = answer.json()["error"]
    assert error["message"]
    assert error["type"].endswith("_error") or error["type"] == "request_too_large"
    if not path.startswith("/v1/messages"):
        assert {"message", "type", "param", "code"} == set(error)


def test_what_a_path_does_not_do_is_told_with_what_it_does(http):
    answer = http.put("/v1/files")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


def test_a_folder_whose_name_is_too_long_for_any_is_refused(http, answers):
    check(http.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "你" * 3000}), "/", answers)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.sampled_from(PLACES), value=st.sampled_from(JUNK))
def test_a_field_that_holds_junk(http, answers, place, value):
    path, field = place
    check(http.post(path, json=BODIES[path] | {field: value}), path, answers)


@pytest.mark.slow
@pytest.mark.parametrize("path", BODIES)
def test_every_field_with_every_junk(http, answers, path):
    for field, value in itertools.product(BODIES[path], JUNK):
        needed = {name: BODIES[path][name] for name in ("model", "messages", "input", "prompt") if name in BODIES[path]}
        for body in (needed | {field: value}, {key: item for key, item in BODIES[path].items() if key != field}):
            check(http.post(path, json=body), path, answers)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.sampled_from(PLACES), value=JSON)
def test_a_field_that_holds_any_json(http, answers, place, value):
    path, field = place
    check(http.post(path, json=BODIES[path] | {field: value}), path, answers)


@pytest.mark.slow
@pytest.mark.parametrize("path", BODIES)
def test_requests_made_from_the_description(http, answers, path):
    page = http.get("/openapi.json").json()
    content = page["paths"][path]["post"]["requestBody"]["content"]

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(body=values(content["application/json"]["schema"], page))
    def ask(body):
        answer = http.post(path, json=body | ({"model": MODEL} if "model" in body else {}))
        check(answer, path, answers)

    ask()
