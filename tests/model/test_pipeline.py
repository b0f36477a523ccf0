"""transformers' text-generation pipeline: clean text in every form; a server still finds the calls."""

from typing import Any

import pytest
from transformers import pipeline

import chatglm
from chatglm.chat.message import Message, Role
from chatglm.model.chat_templates import RESPONSE_TEMPLATE

CHAT = [{"role": "user", "content": "法国的首都是哪里？"}]
ANSWER = "法国的首都是巴黎。"


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return chatglm.load()


@pytest.fixture(scope="module")
def ask(pair: tuple[Any, Any]) -> Any:
    model, tokenizer = pair
    asked = pipeline("text-generation", model=model, tokenizer=tokenizer)
    options = {"do_sample": False, "max_new_tokens": 20, "eos_token_id": list(tokenizer.stop_ids)}
    return lambda prompt, **more: asked(prompt, **options, **more)[0]["generated_text"]


def test_a_chat(ask: Any) -> None:
    assert ask(CHAT) == [*CHAT, {"role": "assistant", "content": ANSWER}]
    assert ask(CHAT, return_full_text=False) == ANSWER
    assert ask(CHAT, return_full_text=False, skip_special_tokens=False) == f"\n {ANSWER}<|user|>"
    assert ask(CHAT, skip_special_tokens=False) == ask(CHAT)


def test_a_prefill(ask: Any) -> None:
    begun = [*CHAT, {"role": "assistant", "content": "法国的"}]
    assert ask(begun)[-1] == {"role": "assistant", "content": ANSWER}
    assert ask(begun, return_full_text=False) == ANSWER.removeprefix("法国的")


def test_a_plain_prompt(ask: Any) -> None:
    whole = ask("你好")
    assert whole.startswith("你好")
    assert "<|" not in whole
    assert ask("你好", return_full_text=False) == whole.removeprefix("你好")
    assert "<|user|>" in ask("你好", skip_special_tokens=False)


CALL = "```python\ntool_call(city='北京')\n```"


@pytest.mark.parametrize("said", ["", "我来查。"])
def test_calls_are_parsed_with_and_without_special_tokens(pair: tuple[Any, Any], said: str) -> None:
    _, tokenizer = pair
    turn = [Message(Role.ASSISTANT, said)] * bool(said) + [Message(Role.ASSISTANT, CALL, "get_weather")]
    ids = tokenizer.render(turn, add_generation_prompt=False).ids[3:] + [tokenizer.get_command("<|observation|>")]
    prompt = tokenizer.build_chat_input("北京天气？")["input_ids"][0].tolist()
    assert tokenizer.response_template is not None, "servers ask this"
    for skip in (False, True):
        text, prefix = (tokenizer.decode(part, skip_special_tokens=skip) for part in (ids, prompt))
        parsed = tokenizer.parse_response(text, prefix=prefix)
        assert parsed.get("content", "") == said
        assert parsed["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": {"city": "北京"}}


def test_a_saved_tokenizer_does_the_same(pair: tuple[Any, Any], tmp_path: Any) -> None:
    pair[1].save_pretrained(tmp_path)
    again = type(pair[1]).from_pretrained(tmp_path)
    assert again.response_template == RESPONSE_TEMPLATE
    assert not again.response_template
