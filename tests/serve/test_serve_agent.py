"""Conversations that act on the server, over a model that writes what a script says."""

import json
import time
from typing import ClassVar

import httpx2
import pytest
from agent.fake_sandbox import FakeSandbox
from agent.scripted_engine import ByteTokenizer, ScriptedEngine, call, code, say
from app_in_process import answering
from running_server import RunningServer

from chatglm.agent.wire import from_json
from chatglm.errors import SandboxError
from chatglm.sandbox import open_sandbox
from chatglm.serve import agent

ROUTE = "/v1/agent/conversations"
TOOLS = '''
from chatglm.tools import tool

@tool
def lookup(word: str) -> str:
    """Look a word up."""
    return word.upper()

@tool(dangerous=True)
def erase(name: str) -> str:
    """Erase something."""
    return f"{name} is erased"
'''


class FakePool:
    def __init__(self, *scripts):
        self.scripts, self.given, self.closed = list(scripts), [], False

    def take(self):
        if not self.scripts:
            raise SandboxError("none is left")
        self.given.append(FakeSandbox(*self.scripts.pop(0)))
        return self.given[-1]

    def close(self):
        self.closed = True


@pytest.fixture
def tools(tmp_path):
    path = tmp_path / "my_tools.py"
    path.write_text(TOOLS)
    return str(path)


def served(*script, keys=(), **config):
    engine = ScriptedEngine(*script, context=4000)
    engine.failed = None
    return answering(engine, ByteTokenizer(), *keys, agent=True, **config)


class Client:
    opened: ClassVar[list[httpx2.Client]] = []

    def __init__(self, url, key=None):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx2.Client(base_url=url, headers=headers, timeout=60)
        self.opened.append(self.http)

    def open(self, **options):
        made = self.http.post(ROUTE, json=options)
        assert made.status_code == 200, made.text
        return made.json()["id"]

    def say(self, conversation, text, on_event=lambda _: None, **more):
        """The events of a turn."""
        found = []
        with self.http.stream("POST", f"{ROUTE}/{conversation}/messages", json={"text": text, **more}) as answer:
            if answer.status_code != 200:
                answer.read()
                raise AssertionError(answer.text)
            lines = list(self._lines(answer, found, on_event))
        assert lines[-1] == "[DONE]"
        return found

    @staticmethod
    def _lines(answer, found, on_event):
        for line in answer.iter_lines():
            if line.startswith("data: "):
                text = line.removeprefix("data: ")
                if text != "[DONE]":
                    found.append(from_json(json.loads(text)))
                    on_event(found[-1])
                yield text


@pytest.fixture(autouse=True)
def closed_clients():
    yield
    while Client.opened:
        Client.opened.pop().close()


def kinds(events):
    return [type(event).__name__ for event in events if type(event).__name__ != "ToolCallDelta"]


def test_a_conversation_uses_tools_and_is_kept(tools):
    with served(call("lookup", word="cat"), say("It is CAT."), say("Yes."), tools=(tools,)) as (url, _):
        client = Client(url)
        one = client.open(system="Be brief.")
        events = client.say(one, "look cat up")
        assert kinds(events)[:2] == ["ToolCallDone", "Observation"]
        assert events[-1].reason == "stop"
        client.say(one, "sure?")
        card = client.http.get(f"{ROUTE}/{one}").json()
        said = [(m["role"], m["content"]) for m in card["messages"]]
        assert [role for role, _ in said] == [
            "system", "user", "assistant", "observation", "assistant", "user", "assistant"
        ]  # fmt: skip
        assert said[3][1] == "CAT"
        assert client.http.delete(f"{ROUTE}/{one}").status_code == 200
        assert client.http.get(f"{ROUTE}/{one}").status_code == 404


@pytest.mark.parametrize("allowed", [True, False])
def test_a_dangerous_tool_waits_for_a_second_request(tools, allowed):
    with served(call("erase", name="x"), say("Done."), tools=(tools,)) as (url, _):
        client, second = Client(url), Client(url)
        one = client.open()

        def consent(event):
            if type(event).__name__ == "ConsentAsked":
                body = {"call": event.id, "allowed": allowed}
                assert second.http.post(f"{ROUTE}/{one}/consent", json=body).status_code == 200
                assert second.http.post(f"{ROUTE}/{one}/consent", json=body).status_code == 409

        events = client.say(one, "erase x", consent)
        [observation] = [event for event in events if type(event).__name__ == "Observation"]
        assert observation.status == ("ok" if allowed else "refused")


def test_nothing_of_a_conversation_is_reached_with_another_key(tools):
    script = [call("erase", name="x"), say("Done.")]
    with served(*script, keys=("one", "two"), tools=(tools,)) as (url, _):
        mine, theirs = Client(url, "one"), Client(url, "two")
        conversation = mine.open()
        place = f"{ROUTE}/{conversation}"

        def try_it(event):
            if type(event).__name__ != "ConsentAsked":
                return
            for method, path, body in (
                ("GET", "", None), ("DELETE", "", None), ("POST", "/stop", None), ("GET", "/files", None),
                ("GET", "/files/x", None), ("POST", "/messages", {"text": "hi"}),
                ("POST", "/consent", {"call": event.id, "allowed": True}),
            ):  # fmt: skip
                assert theirs.http.request(method, place + path, json=body).status_code == 404, path
            assert theirs.http.get(ROUTE).json()["data"] == []
            mine.http.post(f"{place}/consent", json={"call": event.id, "allowed": False})

        assert mine.say(conversation, "erase x", try_it)[-1].reason == "stop"


def test_code_runs_in_an_interpreter_of_the_conversation_alone(monkeypatch):
    pool = FakePool(["4\n"], [])
    monkeypatch.setattr(agent, "_pool", lambda server: pool)
    with served(code("print(2 + 2)"), say("It is 4."), code=True) as (url, server):
        client = Client(url)
        file = client.http.post("/v1/files", files={"file": ("a.csv", b"1,2")}, data={"purpose": "user_data"}).json()
        one = client.open()
        events = client.say(one, "add", files=[file["id"]])
        assert "Observation" in kinds(events)
        assert pool.given[0].ran == ["print(2 + 2)"]
        assert pool.given[0].files == {"a.csv": b"1,2"}
        assert client.http.get(f"{ROUTE}/{one}/files").json()["data"] == [{"name": "a.csv", "bytes": 3}]
        assert client.http.get(f"{ROUTE}/{one}/files/a.csv").content == b"1,2"
        other = client.open()
        assert client.http.get(f"{ROUTE}/{other}/files").json()["data"] == []
        assert client.http.post(ROUTE, json={}).status_code == 503
        client.http.delete(f"{ROUTE}/{one}")
        assert [guest.closed for guest in pool.given] == [True, False]
    assert [guest.closed for guest in pool.given] == [True, True]  # ended with the server
    assert pool.closed


def test_limits_of_a_key_and_of_idleness():
    with served(keys=("one", "two"), max_conversations=2, conversation_idle=0.4) as (url, _):
        client = Client(url, "one")
        made = [client.open() for _ in range(2)]
        refused = client.http.post(ROUTE, json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_conversations")
        Client(url, "two").open()
        last = time.monotonic() + 60
        while client.http.get(ROUTE).json()["data"]:
            assert time.monotonic() < last
            time.sleep(0.1)
        assert client.http.get(f"{ROUTE}/{made[0]}").status_code == 404
        client.open()


def test_one_turn_at_a_time_and_a_client_that_leaves_ends_it(tools):
    with served(call("erase", name="x"), say("Again."), tools=(tools,)) as (url, _):
        client, other = Client(url), Client(url)
        one = client.open()
        with client.http.stream("POST", f"{ROUTE}/{one}/messages", json={"text": "erase x"}) as answer:
            for line in answer.iter_lines():
                if "consent_asked" in line:
                    break
            busy = other.http.post(f"{ROUTE}/{one}/messages", json={"text": "hi"})
            assert (busy.status_code, busy.json()["error"]["code"]) == (409, "busy")
        last = time.monotonic() + 60
        while other.http.get(f"{ROUTE}/{one}").json()["busy"]:
            assert time.monotonic() < last
            time.sleep(0.05)
        assert other.say(one, "and now")[-1].reason == "stop"


def test_a_turn_can_be_stopped_and_has_a_deadline(tools):
    with served(*[call("erase", name="x")] * 2, tools=(tools,), timeout=1.5) as (url, _):
        client, other = Client(url), Client(url)
        one = client.open()

        def stop(event):
            if type(event).__name__ == "ConsentAsked":
                other.http.post(f"{ROUTE}/{one}/stop")

        assert client.say(one, "erase x", stop)[-1].reason == "abort"
        late = client.http.post(f"{ROUTE}/{one}/messages", json={"text": "once more"}).text
        assert '"code":"timeout"' in late or '"reason":"seconds"' in late


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("", {"temperature": -1}),
        ("", {"unknown": 1}),
        ("/messages", {}),
        ("/messages", {"text": "x", "files": ["../x"]}),
    ],
)
def test_wrong_requests(path, body):
    with served() as (url, _):
        client = Client(url)
        place = f"{ROUTE}/{client.open()}{path}" if path else ROUTE
        answer = client.http.post(place, json=body)
        assert answer.status_code in (400, 404)
        assert answer.json()["error"]["message"]


def test_shutting_down_ends_turns_with_an_error_event(tools):
    with served(call("erase", name="x"), tools=(tools,)) as (url, server):
        client = Client(url)
        one = client.open()
        with client.http.stream("POST", f"{ROUTE}/{one}/messages", json={"text": "erase x"}) as answer:
            lines = answer.iter_lines()
            assert any("consent_asked" in line for line in lines)
            server.closing = True
            server.loop.call_soon_threadsafe(server.end_running)
            assert any("shutting_down" in line for line in lines)
        assert client.http.post(ROUTE, json={}).status_code == 503


def test_a_real_server_gives_each_conversation_a_real_interpreter(python):
    try:
        open_sandbox("auto").close()
    except SandboxError as error:
        pytest.skip(str(error))
    server = RunningServer(python, "--agent", "--code", "--tools", "calculator", "--log-level", "warning")
    try:
        client = Client(server.url)
        one, other = client.open(temperature=0, max_new_tokens=30), client.open()
        form = {"files": {"file": ("a.txt", b"mine")}, "data": {"purpose": "user_data"}}
        file = client.http.post("/v1/files", **form).json()
        assert client.say(one, "Hello", files=[file["id"]])[-1].kept
        assert client.http.get(f"{ROUTE}/{one}/files/a.txt").content == b"mine"
        for path in ("../../etc/passwd", "/etc/passwd", "b.txt"):
            assert client.http.get(f"{ROUTE}/{one}/files/{path}").status_code == 404
        assert client.http.get(f"{ROUTE}/{other}/files").json()["data"] == []
        assert client.http.delete(f"{ROUTE}/{one}").status_code == 200
    finally:
        assert server.end() == 0
