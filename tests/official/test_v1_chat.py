"""model.chat and stream_chat of the first generation give the official answers and histories."""

from typing import Any

import pytest
from first_folder import first_folder
from golden_v1 import golden_json

import chatglm
from chatglm.errors import PromptError, RequestError, SessionError

CASES = golden_json("generation/chat.json")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return chatglm.load(first_folder(tmp_path_factory.mktemp("chatglm-6b")))


# In the default run one for each query and history; the others differ in a penalty.
@pytest.mark.parametrize(
    "case", [pytest.param(one, marks=[pytest.mark.slow] * (index % 2)) for index, one in enumerate(CASES)]
)
def test_official_answers(case: dict[str, Any], pair: Any) -> None:
    model, tokenizer = pair
    history = [tuple(turn) for turn in case["history"]]
    response, found = model.chat(tokenizer, case["query"], history, **case["kwargs"])
    assert response == case["response"]
    assert [list(turn) for turn in found] == case["new_history"]
    assert history == [tuple(turn) for turn in case["history"]]  # the caller's own list stays as it is
    steps = list(model.stream_chat(tokenizer, case["query"], history, **case["kwargs"]))
    assert steps[-1][0] == case["response"]
    said = [text for text, _ in steps]
    assert all(later.startswith(earlier) for earlier, later in zip(said, said[1:], strict=False))
    # Officially the last token is never streamed, nor a character that is not whole.
    whole = [text for text in case["stream_responses"] if text and "\ufffd" not in text]
    assert set(whole) <= set(said) | {""}


def test_through_generate_it_is_the_same(pair: Any) -> None:
    model, tokenizer = pair
    case = CASES[4]
    beside = model.chat(
        tokenizer, case["query"], case["history"], encoder_repetition_penalty=1.0000001, **case["kwargs"]
    )
    assert beside[0] == case["response"]


def test_what_it_cannot_do(pair: Any) -> None:
    model, tokenizer = pair
    with pytest.raises(PromptError, match="no roles"):
        model.chat(tokenizer, "a", role="system")
    with pytest.raises(PromptError, match="as a whole"):
        model.build_stream_inputs(tokenizer, "a", [("b", "c")])
    engine = chatglm.engine_for(model, tokenizer)
    with pytest.raises(SessionError, match="tools"):
        chatglm.Session(engine, tokenizer, tools=[max_of])
    with pytest.raises(RequestError, match=r"\[gMASK\] <sop>"):
        engine.submit([5, 6, 7])
    with pytest.raises(RequestError, match="prompt_logprobs"):
        engine.submit(tokenizer("a")["input_ids"], chatglm.SamplingParams(prompt_logprobs=1))
    with pytest.raises(RequestError, match="static_decode"):
        chatglm.engine_for(model, tokenizer, static_decode=True)


def test_a_session(pair: Any) -> None:
    model, tokenizer = pair
    params = chatglm.SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    session = chatglm.Session(chatglm.engine_for(model, tokenizer), tokenizer, params=params)
    first = list(session.send("你好"))
    assert first
    second = list(session.send("再见"))
    assert second
    expected, _ = model.chat(tokenizer, "你好", do_sample=False, max_new_tokens=8, eos_token_id=[1])
    assert session.history[1].content == expected


def max_of(a: int, b: int) -> int:
    """The larger of two.

    Args:
        a: one.
        b: another.
    """
    return max(a, b)
