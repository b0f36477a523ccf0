"""`chatglm chat --api-base`: the terminal over a server that runs."""

import http.server
import io
import json
import subprocess
import threading

import pytest
from running_server import RunningServer

from chatglm import cli
from chatglm.agent.events import TurnDone
from chatglm.agent.remote import RemoteSession
from chatglm.agent.remote_api import RemoteApi
from chatglm.chat.message import TextDelta
from chatglm.errors import ConversationError, RemoteError, SessionError, UsageError
from chatglm.terminal.app import Chat
from chatglm.terminal.screen import Screen
from chatglm.terminal.workbench import Workbench
from chatglm.words import Words


@pytest.fixture
def session(server):
    return RemoteSession(RemoteApi(f"{server.url}/v1"), options={"temperature": 0})


def said(events):
    events = list(events)
    assert isinstance(events[-1], TurnDone)
    return "".join(event.text for event in events if isinstance(event, TextDelta)), events[-1]


def test_a_conversation_is_kept_here(session, client):
    first, done = said(session.send("你好"))
    assert (done.reason, done.kept) == ("stop", True)
    assert done.new_tokens > 0
    assert session.count_tokens() == done.prompt_tokens + done.new_tokens
    assert session.context_length > 0
    asked = [{"role": "user", "content": "你好"}]
    alone = client.chat.completions.create(model=session.model, messages=asked, temperature=0)
    assert first == alone.choices[0].message.content
    second, _ = said(session.send("你是谁？"))
    asked += [{"role": "assistant", "content": first}, {"role": "user", "content": "你是谁？"}]
    alone = client.chat.completions.create(model=session.model, messages=asked, temperature=0)
    assert second == alone.choices[0].message.content
    again, _ = said(session.regenerate())
    assert again == second
    assert session.undo() == "你是谁？"
    assert [message.content for message in session.history] == ["你好", first]
    session.set_system("Be brief.")
    assert session.history[0].content == "Be brief."
    session.clear()
    assert [str(message.role) for message in session.history] == ["system"]
    with pytest.raises(SessionError):
        session.regenerate()


def test_stopped_and_left_answers_stay_and_the_next_works(session):
    session.options |= {"ignore_eos": True, "max_tokens": 1500}
    events = session.send("你好")
    next(events)
    session.stop()
    assert list(events)[-1].reason == "abort"
    assert session.history[-1].content
    left = session.send("Hello")
    next(left)
    with pytest.raises(SessionError):
        session.send("two at once")
    left.close()
    assert len(session.history) == 4
    session.options |= {"max_tokens": 3}
    assert said(session.send("Hello"))[1].reason == "length"


def test_saved_here_and_read_by_any_chat(session, tmp_path):
    said(session.send("你好"))
    session.save(tmp_path / "talk.json")
    before = session.history
    session.clear()
    assert session.reopen(tmp_path / "talk.json")
    assert session.history == before
    assert said(session.send("你是谁？"))[0]
    (tmp_path / "talk.txt").write_text("mine")
    with pytest.raises(ConversationError):
        session.save(tmp_path / "talk.txt")


def test_what_the_server_refuses_leaves_no_trace(session):
    session.model = "other"
    with pytest.raises(RemoteError, match="not served here"):
        list(session.send("你好"))
    assert session.history == []


def test_the_screen_over_a_server(session, tmp_path):
    screen = Screen(io.StringIO(), Words("en"), color=False, bench=Workbench())
    program = Chat(session, screen, Workbench())
    for line in (
        "/system Be brief.",
        "你好",
        "/tokens",
        "/retry",
        f"/save {tmp_path / 'a.json'}",
        "/undo",
        "/upload x",
    ):
        program.handle(line)
    shown = screen.stream.getvalue()
    assert "failed" not in shown
    assert json.loads((tmp_path / "a.json").read_text())["messages"][0]["content"] == "Be brief."
    assert len(session.history) == 1


def test_an_address_without_its_path_is_told(server):
    with pytest.raises(RemoteError, match=f"below /v1: {server.url}/v1"):
        RemoteSession(RemoteApi(server.url))


def test_what_a_server_does_not_do_is_said(session, tmp_path):
    output = io.StringIO()
    chat = Chat(session, Screen(output, Words(), steer=False, color=False), Workbench([], None, tmp_path))
    for line in ("/tools", "/upload x", "/set temperature -3", "/set max_new_tokens 0"):
        chat.handle(line)
    told = Words()("acts_elsewhere")
    assert output.getvalue().count(told) == 2
    assert "temperature is -3.0" in output.getvalue()
    assert "max_new_tokens is 0" in output.getvalue()
    assert session.options == {"temperature": 0}


def test_the_command(server, python):
    command = [*python, "-m", "chatglm", "chat", "你好", "--greedy", "--api-base", f"{server.url}/v1", "--stats"]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip()
    assert b"token" in done.stderr


def test_keys(python):
    running = RunningServer(python, environment={"CHATGLM_API_KEYS": "right"})
    try:
        with pytest.raises(RemoteError, match="401"):
            RemoteSession(RemoteApi(f"{running.url}/v1", "wrong"))
        assert said(RemoteSession(RemoteApi(f"{running.url}/v1", "right")).send("Hi"))[0]
    finally:
        running.end()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--api-base", "nowhere"], "it must be like http"),
        (["--api-base", "http://u:p@127.0.0.1/v1"], "it must be like http"),
        (["--api-base", "http://127.0.0.1:9/v1", "--code"], "--code is for a model that is loaded here"),
        (["--api-base", "http://127.0.0.1:9/v1", "--quantize", "int4"], "--quantize"),
        (["--api-key-env", "X"], "add --api-base"),
        (["--api-base", "http://127.0.0.1:9/v1", "--api-key-env", "NOT_SET"], "NOT_SET"),
    ],
)
def test_wrong_options(options, message, capsys):
    assert cli.main(["chat", "hi", *options]) == 2
    assert message in capsys.readouterr().err


def test_nobody_there(capsys):
    assert cli.main(["chat", "hi", "--api-base", "http://127.0.0.1:9/v1"]) == 1
    assert "does not answer: Connection refused; is it running?" in capsys.readouterr().err


class Strange(http.server.BaseHTTPRequestHandler):
    """A server that answers as its path says."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": [{"id": "m"}]}')

    def do_POST(self):
        if self.path.startswith("/moved"):
            self.send_response(307)
            self.send_header("Location", "http://127.0.0.1:9/stolen")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(
            {
                "/junk": b"data: {junk\n\n",
                "/error": b'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\ndata: {"error": "it broke"}\n\n',
                "/wrong": b'data: {"choices": [7]}\n\n',
                "/bare": b'data: {"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}\n\n',
            }["/" + self.path.split("/")[1]]
        )

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def strange():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Strange) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "message"), [("junk", "not JSON"), ("error", "it broke"), ("wrong", "no chunk"), ("moved", "307")]
)
def test_servers_that_answer_strangely(strange, path, message):
    session = RemoteSession(RemoteApi(f"{strange}/{path}", "key"))
    with pytest.raises(RemoteError, match=message):
        list(session.send("hi"))


def test_a_server_that_tells_little_will_do(strange):
    session = RemoteSession(RemoteApi(f"{strange}/bare"))
    assert said(session.send("hi"))[0] == "Hi"
    assert (session.model, session.context_length, session.count_tokens()) == ("m", 0, 0)


def test_addresses():
    for base in ("", "http://", "ftp://x/v1", "http://[::1", "http://x/v1?a=b", "http://x:99999/v1"):
        with pytest.raises(UsageError):
            RemoteApi(base)
