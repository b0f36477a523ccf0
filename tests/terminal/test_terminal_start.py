"""One answer on standard output and nothing else, and what is checked before a model is loaded."""

import io
import os
import sys

import pytest
from scripted import ScriptedResponder

from chatglm.chat.message import Message, Role
from chatglm.cli import build_parser
from chatglm.errors import ConversationError
from chatglm.terminal.conversation import Conversation
from chatglm.terminal.sampling import Sampling, SamplingError
from chatglm.terminal.start import UsageError, start


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Piped(io.TextIOWrapper):
    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="utf-8")


@pytest.fixture
def chat(monkeypatch, capsys):
    """Runs `chatglm chat` with a scripted model: (exit status, stdout, stderr, responder)."""

    def run(*arguments, script=("fine",), stdin: bytes | None = None, **responder):
        monkeypatch.setattr(sys, "stdin", Terminal() if stdin is None else Piped(stdin))
        scripted = ScriptedResponder(list(script), **responder)
        status = start(build_parser().parse_args(["chat", *arguments]), lambda options: scripted)
        return status, *capsys.readouterr(), scripted

    return run


def no_model(options):
    raise AssertionError("a model was loaded")


@pytest.mark.parametrize(
    ("arguments", "stdin", "asked"),
    [
        (["你好"], None, "你好"),
        ([], "你好\n".encode(), "你好"),
        ([], b"two\nlines\r\n", "two\nlines"),
        (["-"], b" piped ", " piped "),
        (["argument"], b"not read", "argument"),
        (["/clear"], None, "/clear"),
    ],
)
def test_the_answer_and_nothing_else(chat, arguments, stdin, asked):
    status, output, errors, responder = chat(*arguments, stdin=stdin, script=["第一行\nsecond"])
    assert (status, output, errors) == (0, "第一行\nsecond\n", "")
    assert responder.asked == [[Message(Role.USER, asked)]]


def test_statistics_go_to_standard_error(chat):
    _, output, errors, _ = chat("hello", "--stats", "--lang", "en")
    assert output == "fine\n"
    assert errors.startswith("5 prompt tokens, first token after ")


def test_sampling_options_arrive(chat):
    *_, responder = chat("hello", "--temperature", "0.5", "--top-k", "3", "--seed", "9", "--max-new-tokens", "4")
    assert responder.samplings == [Sampling(temperature=0.5, top_k=3, max_new_tokens=4)]
    assert responder.seeds == [9]


@pytest.mark.parametrize("more", [[], ["--temperature", "0"]])
def test_greedy_alone_contradicts_nothing(chat, more):
    *_, responder = chat("hello", "--greedy", *more)
    assert [sampling.greedy for sampling in responder.samplings] == [True]


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not tell what waits in a pipe")
@pytest.mark.parametrize(("data", "noted"), [(b"context", True), (b"", False)])
def test_a_prompt_beside_a_pipe_is_noted_on_standard_error(chat, monkeypatch, capsys, data, noted):
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        scripted = ScriptedResponder(["fine"])
        assert start(build_parser().parse_args(["chat", "hi"]), lambda options: scripted) == 0
        assert pipe.read() == data.decode()
    assert capsys.readouterr() == (
        "fine\n",
        "chatglm: note: standard input is ignored because a PROMPT was given\n" if noted else "",
    )


def test_system_prompt_and_saved_conversation(chat, tmp_path):
    path = tmp_path / "talk.json"
    talk = Conversation()
    talk.ask("a")
    talk.answer([Message(Role.ASSISTANT, "b", ids=(1,))])
    talk.save(path, "characters")
    *_, responder = chat("c", "--system", "Be brief.", "--load", str(path))
    assert responder.asked == [[Message(Role.SYSTEM, "Be brief."), *talk.messages, Message(Role.USER, "c")]]


def test_an_answer_cut_at_the_limit_is_told_on_standard_error(chat):
    status, output, errors, _ = chat("hello", "--lang", "en", script=[{"text": "cut", "reason": "length"}])
    assert (status, output, errors) == (0, "cut\n", "[the answer was cut off at the token limit]\n")


def test_ctrl_c(chat, capsys):
    status, output, _, _ = chat("hello", script=[{"text": "a long answer", "interrupt_after": 6}])
    assert (status, output) == (130, "a long\n")


def test_an_error_of_the_model_is_ours_and_has_its_cause(chat):
    from chatglm.errors import ChatGLMError

    with pytest.raises(ChatGLMError, match="RuntimeError: out of memory") as caught:
        chat("hello", script=[{"text": "x", "fails_after": 0}])
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_prompt_that_does_not_fit_is_refused(chat):
    with pytest.raises(UsageError, match="the prompt has 5 tokens; with its answer it must stay within 4"):
        chat("hello", "--max-length", "4")


@pytest.mark.parametrize(
    ("arguments", "stdin", "error", "message"),
    [
        ([" "], None, UsageError, "the PROMPT is empty"),
        ([], b"\n", UsageError, "the text on standard input is empty"),
        ([], b"\xff\xfe", UsageError, "standard input is not UTF-8 text: invalid start byte at byte 0"),
        ([], None, UsageError, "standard output is no terminal"),
        (["hello", "--top-p", "2"], None, SamplingError, "--top-p is 2.0"),
        (["hello", "--seed", "-1"], None, SamplingError, "--seed is -1"),
        (["hello", "--greedy", "--temperature", "0.8"], None, UsageError, "--greedy .* so --temperature would do"),
        (["hello", "--greedy", "--top-p", "1", "--top-k", "3"], None, UsageError, "--top-p and --top-k"),
        (["hello", "--load", "none.json"], None, ConversationError, "none.json cannot be read"),
    ],
)
def test_checked_before_a_model_is_loaded(monkeypatch, arguments, stdin, error, message):
    monkeypatch.setattr(sys, "stdin", Terminal() if stdin is None else Piped(stdin))
    with pytest.raises(error, match=message):
        start(build_parser().parse_args(["chat", *arguments]), no_model)


def test_no_standard_input_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="there is no standard input and no PROMPT"):
        start(build_parser().parse_args(["chat"]), no_model)
