"""What `chatglm web` refuses before a model is loaded, and answers over a server."""

import argparse
import os
import socket
import sys

import pytest
from serve.running_server import RunningServer

from chatglm.agent.remote_api import RemoteApi
from chatglm.cli import main
from chatglm.errors import SandboxError, UsageError
from chatglm.web import run
from chatglm.web.answering import Remote
from chatglm.web.conversations import Conversations, new_folder
from chatglm.web.gallery import EMBEDDED, REAL
from chatglm.web.settings import Settings
from chatglm.web.visitor import Visitor

SECONDS = 60


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (["--api-key-env", "KEY"], "add --api-base"),
        (["--api-base", "http://127.0.0.1:1/v1", "--tools", "calculator"], "--tools is for a model"),
        (["--api-base", "http://127.0.0.1:1/v1", "--quantize", "int4"], "--quantize is for a model"),
        (["--api-base", "ftp://x"], "http://127.0.0.1:8000/v1"),
        (["--api-base", "http://127.0.0.1:1/v1"], "does not answer"),
        (["--conversations", __file__], "must be a folder"),
        (["--conversations", "/proc/x"], "conversations cannot be kept in /proc/x: "),
        (["--no-code", "--tier", "bubblewrap"], "leave one out"),
        (["--auth-file", "/nowhere"], "cannot be read"),
        (["--tools", "nonsense"], "no built-in tool"),
        (["--host", "192.0.2.1"], "nothing can listen"),
        (["--port", "99999"], "from 0 to 65535"),
        (["--ui", "tk"], "it must be one of: gradio, streamlit"),
        (["--share"], "unknown option --share"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_is_loaded(options, wrong, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "chatglm.loading", None)  # whoever imports it gets an error of another kind
    try:
        status = main(["web", "--port", "0", *options])
    except SystemExit as leave:
        status = leave.code
    assert status in (1, 2)
    assert wrong in capsys.readouterr().err


def test_a_taken_port_is_said_at_once(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["web", "--port", str(taken.getsockname()[1])]) == 1
    assert "choose another --port" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["web"]) == 1
    assert "chatglm[web]" in capsys.readouterr().err
    monkeypatch.setattr(sys, "version_info", (3, 11, 0))
    assert main(["web", "--ui", "streamlit"]) == 1
    assert "chatglm[streamlit]" in capsys.readouterr().err


def test_streamlit_needs_a_python_that_it_knows(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert main(["web", "--ui", "streamlit"]) == 2
    told = capsys.readouterr().err
    assert "needs Python 3.11 or later" in told
    assert "chatglm[streamlit]" in told


def test_without_isolation_there_is_a_page_without_code(monkeypatch, capsys):
    def refuse(tier):
        raise SandboxError("bubblewrap is missing")

    monkeypatch.setattr("chatglm.sandbox.open_sandbox", refuse)
    options = argparse.Namespace(tier=None)
    assert run._pool(options, run.choose("en"), None) is None
    assert "bubblewrap is missing" in capsys.readouterr().err
    with pytest.raises(SandboxError):
        run._pool(argparse.Namespace(tier="bubblewrap"), run.choose("en"), None)


def test_the_gallery_has_five_prompts_for_each_mode_and_language():
    for gallery in (EMBEDDED, REAL):
        assert {len(prompts) for languages in gallery.values() for prompts in languages.values()} == {5}
        assert all(not prompt.isascii() for languages in gallery.values() for prompt in languages["zh"])


@pytest.mark.slow
def test_a_server_answers_with_the_same_code_above(python, tmp_path):
    server = RunningServer(python, "--log-level", "warning")
    try:
        answers = Remote(RemoteApi(f"{server.url}/v1"))
        assert (answers.name, answers.modes) == ("chatglm-tiny", ("chat",))
        visitor = Visitor(answers, Conversations(tmp_path, "somebody"))
        greedy = Settings(temperature=0, max_new_tokens=50)
        assert visitor.send("你好", (), greedy).wait(SECONDS)
        [told] = visitor.told
        said = told.view.parts[0].text
        assert said
        assert told.done.new_tokens > 0
        assert visitor.retry(greedy).wait(SECONDS)
        assert visitor.told[0].view.parts[0].text == said
        name = visitor.conversation
        visitor.new()
        visitor.open(name)
        assert visitor.edit(0, "Who are you?", greedy).wait(SECONDS)
        assert [turn.text for turn in visitor.told] == ["Who are you?"]
        with pytest.raises(UsageError, match="mode"):
            visitor.new("tool")
        visitor.close()
    finally:
        assert server.end() == 0


def test_default_conversations_lie_where_data_belongs(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert run.default_folder() == tmp_path / "chatglm" / "conversations"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert run.default_folder().is_absolute()
    folder = Conversations(tmp_path / "new", "a").folder
    new_folder(folder)
    assert os.stat(folder).st_mode & 0o077 == 0
