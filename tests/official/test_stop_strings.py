"""Stop strings through `model.chat`: the text ends before them however tokens are cut, on both ways to generate."""

from typing import Any

import pytest

import chatglm
from chatglm.agent.answer import Answer
from chatglm.chat.message import Done, TextDelta
from chatglm.errors import RequestError
from chatglm.official.reply import reply


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return chatglm.load()


def answer(pair: tuple[Any, Any], **options: Any) -> tuple[str, str, Answer]:
    said = reply(*pair, [{"role": "user", "content": "你好"}], do_sample=False, max_new_tokens=40, **options)
    events = list(said)
    assert isinstance(events[-1], Done)
    return "".join(event.text for event in events if isinstance(event, TextDelta)), events[-1].reason, said


@pytest.mark.parametrize(
    "options",
    [pytest.param({}, id="engine"), pytest.param({"no_repeat_ngram_size": 50}, id="generate", marks=pytest.mark.slow)],
)
def test_every_stop_in_an_answer_ends_it_there(pair: tuple[Any, Any], options: dict[str, Any]) -> None:
    text, _, _ = answer(pair)
    stops = {text[start : start + (1, 3)[start % 2]] for start in range(1, len(text) - 1)}
    assert len(stops) > 10
    for stop in stops:
        if stop.strip() != stop:
            continue
        cut, reason, reply = answer(pair, stop_strings=[stop, "zzz"], **options)
        expected = text[: text.index(stop)].rstrip()
        assert (cut, reason) == (expected, "stop")
        messages = reply.messages()
        assert (messages[-1].content if messages else "") == expected
        assert not messages or messages[-1].ids is None  # the ids hold what was cut off


def test_a_conversation_goes_on_after_a_stop(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    text, _, _ = answer(pair)
    first, history = model.chat(tokenizer, "你好", do_sample=False, stop_strings=[text[2:4]])
    assert first == text[: text.index(text[2:4])]
    second, _ = model.chat(tokenizer, "你好", history=history, do_sample=False)
    assert second


@pytest.mark.parametrize("stop_strings", ["", [""], [1], 1])
def test_what_is_no_list_of_texts_is_refused(pair: tuple[Any, Any], stop_strings: Any) -> None:
    with pytest.raises(RequestError, match="stop is"):
        answer(pair, stop_strings=stop_strings)


def test_the_blank_line_of_the_format_is_not_searched(pair: tuple[Any, Any]) -> None:
    """Every answer begins with it; a stop at the first line break means the first one written."""
    whole, _, _ = answer(pair)
    text, _, _ = answer(pair, stop_strings=["\n"])
    assert text == whole.split("\n")[0].rstrip() != ""
