"""Programs of others as clients: what they send is understood, and what they get is what they expect.

Each comes with the extra `clients`, which no other test needs.
"""

import importlib
import json
from typing import Literal

import pytest

from chatglm.loading import load
from chatglm.own_engine import engine_for

MODEL = "chatglm-tiny"
HELLO = [{"role": "user", "content": "你好"}]
WEATHER = [{"role": "user", "content": "北京天气怎么样？"}]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of packages of others
]


def package(name):
    """A package, or the test is left out."""
    return pytest.importorskip(name, reason=f"{name} comes with the extra clients", exc_type=ImportError)


def plain(client, messages=HELLO, **options):
    """What the official client is told."""
    answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, **options)
    return answer.choices[0].message.content


# LangChain


@pytest.fixture
def chat_model(server):
    package("langchain_openai")
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model=MODEL, base_url=f"{server.url}/v1", api_key="none", temperature=0, max_retries=0)


def test_langchain_says_the_same_whole_and_in_pieces(chat_model, client):
    told = chat_model.invoke("你好")
    assert told.content == plain(client)
    assert told.usage_metadata["total_tokens"] > told.usage_metadata["output_tokens"] > 0
    pieces = list(chat_model.stream("你好", stream_usage=True))
    assert "".join(piece.content for piece in pieces) == told.content
    assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) > 0


def get_weather(city: Literal["北京", "上海"]) -> str:
    """The weather of a city."""
    return f"{city}: 晴，25 度"


def test_langchain_gets_calls_and_gives_results_back(chat_model):
    bound = chat_model.bind_tools([get_weather], tool_choice="get_weather", strict=True)
    asked = bound.invoke(WEATHER[0]["content"])
    (call,) = asked.tool_calls
    assert (call["name"], asked.invalid_tool_calls) == ("get_weather", [])
    streamed = None
    for piece in bound.stream(WEATHER[0]["content"]):
        streamed = piece if streamed is None else streamed + piece
    assert [one["args"] for one in streamed.tool_calls] == [call["args"]]
    result = {"role": "tool", "tool_call_id": call["id"], "content": get_weather(**call["args"])}
    assert chat_model.bind_tools([get_weather]).invoke([*WEATHER, asked, result]).content


def test_a_langchain_agent_calls_its_tool(chat_model):
    package("langchain")
    from langchain.agents import create_agent

    def calculate(expression: str) -> str:
        """Calculates an expression, such as 2 + 3."""
        return "5"

    asked = {"messages": [{"role": "user", "content": "2 + 3 = ?"}]}
    messages = create_agent(chat_model.bind(max_tokens=100), tools=[calculate]).invoke(asked)["messages"]
    assert [message.type for message in messages] in (["human", "ai", "tool", "ai"], ["human", "ai"])
    assert messages[-1].content


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_gets_what_fits_its_schema(chat_model, method):
    from pydantic import BaseModel

    class Verdict(BaseModel):
        """What to do."""

        wear: Literal["coat", "shirt"]
        sure: bool

    verdict = chat_model.with_structured_output(Verdict, method=method).invoke("It is cold. What do I wear?")
    assert isinstance(verdict, Verdict)


# LiteLLM


@pytest.fixture
def litellm(server, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    found = package("litellm")
    monkeypatch.setattr(found, "telemetry", False)

    def ask(**options):
        return found.completion(
            model=f"openai/{MODEL}", api_base=f"{server.url}/v1", api_key="none", num_retries=0, **options
        )

    return ask


def test_litellm_says_the_same_whole_and_in_pieces(litellm, client):
    more = {"user": "me", "metadata": {"a": "b"}, "stream_options": None}
    told = litellm(messages=HELLO, temperature=0, **more).choices[0].message.content
    assert told == plain(client)
    pieces = litellm(messages=HELLO, temperature=0, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == told


def test_litellm_gets_calls_and_schemas(litellm):
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"enum": ["a", "b"]}}, "required": ["city"]},
        },
    }
    answer = litellm(messages=WEATHER, tools=[tool], tool_choice="required").choices[0]
    assert answer.finish_reason == "tool_calls"
    assert json.loads(answer.message.tool_calls[0].function.arguments)["city"] in ("a", "b")
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    assert isinstance(json.loads(litellm(messages=HELLO, response_format=form).choices[0].message.content)["ok"], bool)


def test_litellm_tells_errors_by_their_kind(litellm):
    exceptions = importlib.import_module("litellm.exceptions")
    with pytest.raises(exceptions.BadRequestError):
        litellm(messages=HELLO, n=1000)
    with pytest.raises(exceptions.ContextWindowExceededError):
        litellm(messages=[{"role": "user", "content": "long " * 5000}])


# lm-eval


@pytest.fixture(scope="module")
def tiny():
    model, tokenizer = load()
    return engine_for(model, tokenizer), tokenizer


def instance(kind, arguments):
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def lm_eval_model(name, url, **options):
    package("lm_eval")
    package("tenacity")
    from lm_eval.api.registry import get_model

    return get_model(name)(model=MODEL, base_url=url, num_concurrent=1, max_retries=1, **options)


PAIRS = [
    ("The capital of France is", " Paris."),
    ("你好，", "我是人工智能助手。"),
    ("", "Hello there."),
    ("1 + 1 =", " 2"),
]


def test_lm_eval_measures_what_the_engine_does(server, tiny):
    engine, tokenizer = tiny
    options = {"tokenizer_backend": "remote", "tokenized_requests": True, "batch_size": 2}
    model = lm_eval_model("local-completions", f"{server.url}/v1/completions", **options)
    pairs = PAIRS[:2] + PAIRS[3:]
    found = model.loglikelihood([instance("loglikelihood", pair) for pair in pairs])
    for (context, continuation), (logprob, greedy) in zip(pairs, found, strict=True):
        both, head = (list(model.tok_encode(text)) for text in (context + continuation, context))
        score = engine.score(both[: len(head)], both[len(head) :])
        assert logprob == pytest.approx(score.logprob, abs=1e-3)
        assert greedy == score.greedy
    assert tokenizer is not None


def test_lm_eval_generates_until(server, client):
    options = {"tokenizer_backend": "remote", "tokenized_requests": False}
    model = lm_eval_model("local-completions", f"{server.url}/v1/completions", **options)
    until = {"until": ["\n\n", "Q:"], "max_gen_toks": 12, "do_sample": False}
    (text,) = model.generate_until([instance("generate_until", ("Question: 1 + 1 = ?\nAnswer:", until))])
    asked = {"prompt": "Question: 1 + 1 = ?\nAnswer:", "max_tokens": 12, "temperature": 0, "stop": ["\n\n", "Q:"]}
    assert text == client.completions.create(model=MODEL, **asked).choices[0].text


def test_lm_eval_chats(server, client):
    model = lm_eval_model("local-chat-completions", f"{server.url}/v1/chat/completions")
    prompt = model.apply_chat_template(HELLO)
    arguments = (prompt, {"until": ["###"], "max_gen_toks": 40})
    (text,) = model.generate_until([instance("generate_until", arguments)])
    assert text == plain(client, max_tokens=40, stop=["###"])


def test_a_task_of_lm_eval_runs_from_end_to_end(server, tmp_path):
    package("lm_eval")
    package("datasets")
    import lm_eval
    from lm_eval.tasks import TaskManager

    rows = [{"question": "Capital of France?", "choices": ["Paris", "Rome"], "answer": 0}] * 3
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "capitals.yaml").write_text(
        "task: capitals\ndataset_path: json\noutput_type: multiple_choice\ntest_split: test\n"
        f"dataset_kwargs:\n  data_files:\n    test: {tmp_path / 'rows.jsonl'}\n  cache_dir: {tmp_path / 'cache'}\n"
        "doc_to_text: 'Q: {{question}}\\nA:'\ndoc_to_choice: '{{choices}}'\ndoc_to_target: answer\n"
        "metric_list:\n  - metric: acc\n"
    )
    result = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": MODEL, "base_url": f"{server.url}/v1/completions", "tokenizer_backend": "remote",
            "tokenized_requests": True, "num_concurrent": 1,
        },
        tasks=["capitals"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )  # fmt: skip
    assert 0 <= result["results"]["capitals"]["acc,none"] <= 1
    assert result["n-samples"]["capitals"]["effective"] == 3
