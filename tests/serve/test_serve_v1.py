"""The first generation behind its two doors, the server and the terminal: the answers of `model.chat`."""

import io
import re
import sys
from typing import Any

import httpx2
import pytest
from app_in_process import answering
from first_folder import first_folder

import chatglm
from chatglm.cli import main
from chatglm.model.pretrained import OfficialCheckpoints

ASKED = {"model": "scripted", "temperature": 0, "max_tokens": 8, "ignore_eos": True}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return first_folder(tmp_path_factory.mktemp("chatglm-6b"))


@pytest.fixture(scope="module")
def pair(folder: Any) -> Any:
    return chatglm.load(folder)


@pytest.fixture(scope="module")
def ask(pair: Any) -> Any:
    model, tokenizer = pair
    engine = chatglm.engine_for(model, tokenizer)
    engine.start()
    with answering(engine, tokenizer) as (url, _):
        yield lambda **body: httpx2.post(f"{url}/v1/chat/completions", json=ASKED | body, timeout=60)
    engine.close()


def expected(pair: tuple[OfficialCheckpoints, Any], *said: str) -> str:
    model, tokenizer = pair
    history = list(zip(said[0:-1:2], said[1::2], strict=True))
    answer: str = model.chat(
        tokenizer, said[-1], history, do_sample=False, max_new_tokens=8, eos_token_id=[1], max_length=None
    )[0]
    return answer


def test_the_server_answers_as_chat_does_over_turns(pair: Any, ask: Any) -> None:
    said = ["你好"]
    for question in ("再见", None):
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
        found = ask(messages=messages)
        assert found.status_code == 200, found.text
        answer = found.json()["choices"][0]["message"]["content"]
        assert answer == expected(pair, *said)
        said += [answer, question] if question else []


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]}, "system|role"),
    ],
)
def test_what_it_was_not_taught_is_refused_with_the_reason(ask: Any, more: dict[str, Any], reason: str) -> None:
    refused = ask(**({"messages": [{"role": "user", "content": "hi"}]} | more))
    assert refused.status_code == 400, refused.text
    assert re.search(reason, refused.json()["error"]["message"])


def test_the_terminal_shows_the_same_answer(
    pair: Any, folder: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("你好".encode()), encoding="utf-8"))
    assert main(["chat", "--model", str(folder), "--greedy", "--max-new-tokens", "8"]) == 0
    shown = capsys.readouterr().out
    model, tokenizer = pair
    whole = model.chat(tokenizer, "你好", do_sample=False, max_new_tokens=8)[0]
    assert shown.strip() == whole.strip()
    assert main(["chat", "--model", str(folder), "--tools", "calculator", "hi"]) == 1
    assert "tools" in capsys.readouterr().err
