"""One answer on standard output and nothing else, and what is checked before a model is loaded."""

import io
import os
import re
import sys

import pytest
from scripted import Tokens, model

from chatglm.chat.message import Message, Role
from chatglm.chat.saved import save_file, vocabulary_of
from chatglm.cli import build_parser
from chatglm.errors import ChatGLMError, ConversationError, UsageError
from chatglm.terminal.start import start


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Piped(io.TextIOWrapper):
    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="utf-8")


@pytest.fixture
def chat(monkeypatch, capsys):
    """Runs `chatglm chat` with a scripted model: (exit status, stdout, stderr, engine)."""

    def run(*arguments, script=("fine",), stdin: bytes | None = None):
        monkeypatch.setattr(sys, "stdin", Terminal() if stdin is None else Piped(stdin))
        loaded = model(*script)
        status = start(build_parser().parse_args(["chat", *arguments]), lambda options: loaded)
        return status, *capsys.readouterr(), loaded[0]

    return run


def read(engine):
    """The text of the first prompt."""
    return bytes(token for token in engine.prompts[0] if token < 256).decode()


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
    status, output, errors, engine = chat(*arguments, stdin=stdin, script=["第一行\nsecond"])
    assert (status, output, errors) == (0, "第一行\nsecond\n", "")
    assert read(engine) == f" \n {asked}"


def test_statistics_go_to_standard_error(chat):
    _, output, errors, _ = chat("hello", "--stats", "--lang", "en")
    assert output == "fine\n"
    assert re.match(r"\d+ prompt tokens, first token after ", errors)


def test_sampling_options_arrive(chat):
    *_, engine = chat("hello", "--temperature", "0.5", "--top-k", "3", "--seed", "9", "--max-new-tokens", "7")
    [params] = engine.params
    assert (params.temperature, params.top_p, params.top_k, params.seed, params.max_tokens) == (0.5, 0.8, 3, 9, 7)


def test_the_defaults_are_the_official_ones(chat):
    [params] = chat("hello")[3].params
    assert (params.temperature, params.top_p, params.top_k, params.repetition_penalty) == (0.8, 0.8, 0, 1)


@pytest.mark.parametrize("more", [[], ["--temperature", "0"]])
def test_greedy_alone_contradicts_nothing(chat, more):
    *_, engine = chat("hello", "--greedy", *more)
    assert [params.greedy for params in engine.params] == [True]


@pytest.mark.parametrize(
    ("data", "asked"),
    [("context 上下文\n", "sum up\n\ncontext 上下文"), ("", "sum up"), (" \n", "sum up"), ("\ufeffx", "sum up\n\nx")],
)
def test_what_is_piped_in_stands_below_the_prompt(monkeypatch, capsys, tmp_path, data, asked):
    (tmp_path / "file").write_text(data, encoding="utf-8")
    reading, writing = os.pipe()
    os.write(writing, data.encode())
    os.close(writing)
    for source in (reading, tmp_path / "file"):
        with open(source, encoding="utf-8") as stream:
            monkeypatch.setattr(sys, "stdin", stream)
            engine, tokenizer = loaded = model("fine")
            assert start(build_parser().parse_args(["chat", "sum up"]), lambda options, pair=loaded: pair) == 0
        assert capsys.readouterr() == ("fine\n", "")
        assert bytes(token for token in engine.prompts[0] if token < 256).decode().count(asked) == 1
        assert tokenizer.render([Message(Role.USER, asked)]).ids == engine.prompts[0]


def test_an_encoding_that_lacks_characters_is_named(monkeypatch, capsys):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", write_through=True))
    loaded = model("好 fine 好")
    with pytest.raises(ChatGLMError, match="2 characters .* encoding ascii .* PYTHONIOENCODING=utf-8"):
        start(build_parser().parse_args(["chat", "hi"]), lambda options: loaded)
    assert written.getvalue() == b"? fine ?\n"


def test_a_locale_that_lacks_characters_is_named(chat, monkeypatch):
    monkeypatch.setenv("LC_ALL", "POSIX")
    with pytest.raises(UsageError, match=r"encoding .* of this locale \(POSIX\)"):
        chat("\udce4\udcbd")


def test_system_prompt_and_saved_conversation(chat, tmp_path):
    path = tmp_path / "talk.json"
    talk = [Message(Role.USER, "a"), Message(Role.ASSISTANT, "b", ids=tuple(b"\n b"))]
    save_file(path, talk, vocabulary_of(model()[1]))
    *_, engine = chat("c", "--system", "Be brief.", "--load", str(path))
    assert read(engine) == " \n Be brief. \n a\n b \n c"


def test_an_answer_cut_at_the_limit_is_told_on_standard_error(chat):
    status, output, errors, _ = chat("hello", "--lang", "en", script=[Tokens("cut", ends=False)])
    assert (status, output, errors) == (0, "cut\n", "[the answer was cut off at the token limit]\n")


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize(("language", "told"), [("en", "[the model said nothing]"), ("zh", "[模型没有说出内容]")])
def test_an_answer_with_nothing_in_it_is_told(chat, ends, language, told):
    status, output, errors, _ = chat("hello", "--lang", language, script=[Tokens("", ends=ends)])
    assert (status, output.strip()) == (1, "")
    assert errors.endswith(f"{told}\n")


def test_ctrl_c(chat, capsys):
    status, output, _, _ = chat("hello", script=[Tokens("a long answer", interrupt_after=6)])
    assert (status, output) == (130, "a long\n")


def test_an_error_of_the_model_is_ours_and_has_its_cause(chat):
    from chatglm.errors import ChatGLMError

    with pytest.raises(ChatGLMError, match="RuntimeError: out of memory") as caught:
        chat("hello", script=[Tokens("x", fails_after=0)])
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_prompt_that_does_not_fit_is_refused(chat):
    with pytest.raises(UsageError, match=r"the prompt has \d+ tokens; with its answer it must stay within 4"):
        chat("hello", "--max-length", "4")


@pytest.mark.parametrize(
    ("arguments", "stdin", "error", "message"),
    [
        ([" "], None, UsageError, "the PROMPT is empty"),
        ([], b"\n", UsageError, "the text on standard input is empty"),
        ([], b"\xff\xfe", UsageError, "standard input is not UTF-8 text: invalid start byte at byte 0"),
        ([], None, UsageError, "standard output is no terminal"),
        (["hello", "--top-p", "2"], None, UsageError, "--top-p is 2.0"),
        (["hello", "--top-p", "0"], None, UsageError, "--top-p is 0.0"),
        (["hello", "--temperature", "nan"], None, UsageError, "--temperature is nan"),
        (["hello", "--temperature", "-0.1"], None, UsageError, "--temperature is -0.1"),
        (["hello", "--top-k", "-1"], None, UsageError, "--top-k is -1"),
        (["hello", "--repetition-penalty", "inf"], None, UsageError, "--repetition-penalty is inf"),
        (["hello", "--max-new-tokens", "0"], None, UsageError, "--max-new-tokens is 0"),
        (["hello", "--max-length", "0"], None, UsageError, "--max-length is 0"),
        (["hello", "--seed", "-1"], None, UsageError, "--seed is -1"),
        (["hello", "--seed", str(2**63)], None, UsageError, "--seed is 9223372036854775808"),
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
