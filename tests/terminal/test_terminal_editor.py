"""The input line, driven by key strokes through prompt_toolkit's own pipe."""

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from chatglm.terminal.editor import CommandCompleter, Editor, history_path, open_history

ENTER, ALT_ENTER, CTRL_C, CTRL_D = "\r", "\x1b\r", "\x03", "\x04"
LEFT, UP, BACKSPACE = "\x1b[D", "\x1b[A", "\x7f"


@pytest.fixture
def keys():
    with create_pipe_input() as pipe:
        editor = Editor(InMemoryHistory(), source=pipe, screen=DummyOutput())

        def type_keys(text: str, draft: str = "") -> str:
            pipe.send_text(text)
            return editor.read(draft)

        yield type_keys


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("hello" + ENTER, "hello"),
        ("a" + ALT_ENTER + "b" + ENTER, "a\nb"),
        ("a\\" + ENTER + "b" + ENTER, "a\\\nb"),
        ('"""' + ENTER + "a" + ENTER + '"""' + ENTER, '"""\na\n"""'),
        # One key is one character on the screen, however wide it is.
        ("你好👋世界" + LEFT * 2 + BACKSPACE + ENTER, "你好世界"),
        ("한글é" + BACKSPACE + ENTER, "한글"),
        ("lost" + CTRL_C + "kept" + ENTER, "kept"),
        # Pasted lines arrive as one message.
        ("\x1b[200~line 1\nline 2\x1b[201~" + ENTER, "line 1\nline 2"),
    ],
)
def test_editing(keys, typed, read):
    assert keys(typed) == read


def test_a_draft_can_be_edited(keys):
    assert keys("!" + ENTER, draft="你好") == "你好!"


def test_ctrl_c_and_ctrl_d_on_an_empty_line(keys):
    with pytest.raises(KeyboardInterrupt):
        keys(CTRL_C)
    with pytest.raises(EOFError):
        keys(CTRL_D)


def test_arrow_up_brings_back_what_was_typed(keys):
    keys("第一" + ENTER)
    keys("second" + ENTER)
    assert keys(UP + UP + ENTER) == "第一"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("/s", ["/system ", "/save ", "/set ", "/stats"]),
        ("/cl", ["/clear"]),
        ("/x", []),
        ("say /cl", []),
        ("/system a", []),
    ],  # fmt: skip
)
def test_completion_of_commands(typed, offered):
    found = CommandCompleter().get_completions(Document(typed), CompleteEvent())
    assert [completion.text for completion in found] == offered


@pytest.mark.parametrize("command", ["/load", "/upload", "/model", "/adapter"])
def test_completion_of_files(tmp_path, command):
    (tmp_path / "talk 谈话.json").touch()
    found = CommandCompleter().get_completions(Document(f"{command} {tmp_path}/ta"), CompleteEvent())
    assert [completion.text for completion in found] == ["lk 谈话.json"]


def test_history_is_a_private_file_under_the_state_folder(tmp_path):
    path = history_path({"XDG_STATE_HOME": str(tmp_path)})
    assert path == tmp_path / "chatglm" / "history"
    history, error = open_history(path)
    assert isinstance(history, FileHistory)
    assert error is None
    assert path.stat().st_mode & 0o777 == 0o600
    history.append_string("两行\n文字")
    assert list(open_history(path)[0].load_history_strings()) == ["两行\n文字"]


def test_a_relative_state_folder_counts_as_not_set(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_path({"XDG_STATE_HOME": "here"}) == tmp_path / ".local" / "state" / "chatglm" / "history"


def test_history_stays_in_memory_where_no_file_can_be_kept(tmp_path):
    (tmp_path / "chatglm").write_text("a file where the folder should be")
    history, error = open_history(tmp_path / "chatglm" / "history")
    assert isinstance(history, InMemoryHistory)
    assert isinstance(error, OSError)
