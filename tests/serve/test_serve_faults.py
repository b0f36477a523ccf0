"""What goes wrong: engines that die, answers that take too long, clients that dawdle, servers that are told to stop."""

import asyncio
import json
import signal
import socket
import threading
import time
from contextlib import AsyncExitStack
from types import SimpleNamespace

import httpx2
import pytest
from app_in_process import answering
from running_server import RunningServer

from chatglm.listening import listening
from chatglm.loading import load
from chatglm.own_engine import engine_for
from chatglm.serve import run
from chatglm.serve.access import Keys
from chatglm.serve.config import ServerConfig
from chatglm.serve.stream import EventStream, event

MODEL = "chatglm-tiny"
SECRET = "the-word-nobody-may-log"


def asked(**more):
    return {"model": MODEL, "messages": [{"role": "user", "content": "你好"}], "ignore_eos": True} | more


@pytest.fixture(scope="module")
def hasty(python):
    running = RunningServer(python, "--timeout", "1", "--write-timeout", "1")
    yield running
    running.end()


def test_an_answer_that_takes_too_long_is_504_or_an_error_in_its_stream(hasty):
    body = asked(max_tokens=1900)
    answer = httpx2.post(f"{hasty.url}/v1/chat/completions", json=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    lines = httpx2.post(f"{hasty.url}/v1/chat/completions", json=body | {"stream": True}, timeout=60).text.split("\n\n")
    last = json.loads(lines[-2].removeprefix("data: "))
    assert last["error"]["code"] == "timeout"
    assert httpx2.get(f"{hasty.url}/health").status_code == 200


def test_a_body_that_does_not_come_is_408(hasty):
    host, port = hasty.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n{{"
    for pause in (30.0, 0.5):  # nothing more; and a drop again and again
        with socket.create_connection((host, int(port)), timeout=pause) as connection:
            connection.sendall(head.encode())
            told, began = b"", time.monotonic()
            while not told:
                assert time.monotonic() - began < 30
                try:
                    told = connection.recv(1000)
                except TimeoutError:
                    connection.sendall(b" ")
            assert told.startswith(b"HTTP/1.1 408")


def test_a_client_that_does_not_read_is_given_up():
    """And its place is given back, though not one event was asked for."""
    left = []

    async def endless():
        while True:
            yield event({"text": "x"})

    async def never(*_):
        await asyncio.sleep(3600)

    async def use():
        place = AsyncExitStack()
        place.callback(left.append, True)
        stream = EventStream(endless(), place=place, keep_alive=10, write_timeout=0.05)
        await asyncio.wait_for(stream({"type": "http"}, never, never), 10)

    asyncio.run(use())
    assert left == [True]


def test_pieces_are_sent_at_once():
    """Of a listener whose protocol is not named asyncio does not know that its connections are of TCP."""

    async def use():
        delays = []

        async def meet(_, writer):
            delays.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = listening("127.0.0.1", 0)
        async with await asyncio.start_server(meet, sock=listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()
        return delays

    assert all(asyncio.run(use()))


# shutting down


def begin_stream(url, body, found):
    """Reads a stream in a thread; what came is in `found`."""

    def read():
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body | {"stream": True}, timeout=60) as answer:
            for line in answer.iter_lines():
                found.append(line)

    thread = threading.Thread(target=read)
    thread.start()
    last = time.monotonic() + 60
    while len(found) < 4:
        assert time.monotonic() < last
        time.sleep(0.01)
    return thread


@pytest.mark.parametrize(("grace", "whole"), [("60", True), ("0.5", False)])
def test_running_streams_are_finished_in_the_grace_and_told_after_it(python, grace, whole):
    server = RunningServer(python, "--grace", grace, "--log-level", "warning")
    found = []
    reader = begin_stream(server.url, asked(max_tokens=300 if whole else 1900), found)
    assert server.end(signal.SIGTERM) == 0
    reader.join(30)
    lines = [line.removeprefix("data: ") for line in found if line.startswith("data: ")]
    if whole:
        assert lines[-1] == "[DONE]"
        assert json.loads(lines[-2])["choices"][0]["finish_reason"] == "length"
    else:
        assert json.loads(lines[-1])["error"]["code"] == "shutting_down"


# logs


@pytest.mark.parametrize("told", [False, True])
def test_what_people_write_is_logged_only_where_asked_for(python, told):
    server = RunningServer(python, "--log-level", "debug", *(["--log-prompts"] if told else []))
    chat = {"model": MODEL, "messages": [{"role": "user", "content": SECRET}], "max_tokens": 2}
    bodies = [
        chat,
        chat | {"stream": True},
        chat | {"temperature": SECRET},
        chat | {SECRET: 1},
        chat | {"model": SECRET},
    ]
    for body in bodies:
        httpx2.post(f"{server.url}/v1/chat/completions", json=body, headers={"X-Request-Id": "mine"}, timeout=60)
    httpx2.post(f"{server.url}/v1/completions", json={"model": MODEL, "prompt": SECRET, "max_tokens": 2}, timeout=60)
    httpx2.post(f"{server.url}/v1/completions", content=SECRET, timeout=60)
    httpx2.post(
        f"{server.url}/v1/files", files={"file": (SECRET, SECRET.encode())}, data={"purpose": SECRET}, timeout=60
    )
    httpx2.get(f"{server.url}/{SECRET}?{SECRET}={SECRET}", timeout=60)
    assert server.end() == 0
    log = "".join(server.log)
    assert "mine" in log
    assert (SECRET in log) == told


# an engine that dies


@pytest.fixture
def engine():
    model, tokenizer = load()
    made = engine_for(model, tokenizer, max_running=4)
    with made:
        yield made, tokenizer


def kill(engine):
    """What a fault in the books of the engine does."""

    def fault():
        raise RuntimeError("a fault of the test")

    engine.loop.turns.post(fault)


def test_an_engine_that_dies_ends_every_answer_and_refuses_the_next(engine):
    engine, tokenizer = engine
    with answering(engine, tokenizer, aliases=(MODEL,)) as (url, _):
        found = []
        reader = begin_stream(url, asked(max_tokens=1900), found)
        kill(engine)
        reader.join(30)
        assert "error" in json.loads([line for line in found if line][-1].removeprefix("data: "))
        for path, body in (
            ("/v1/chat/completions", asked()), ("/v1/chat/completions", asked(stream=True)),
            ("/v1/messages", {"model": MODEL, "messages": asked()["messages"], "max_tokens": 3}),
            ("/v1/completions", {"model": MODEL, "prompt": "a"}), ("/v1/embeddings", {"model": MODEL, "input": "a"}),
        ):  # fmt: skip
            assert httpx2.post(url + path, json=body, timeout=60).status_code == 503, path
        assert httpx2.get(f"{url}/health").status_code == 503
        assert httpx2.get(f"{url}/ready").status_code == 503
        assert "chatglm_engine_failed 1.0" in httpx2.get(f"{url}/metrics").text


def test_a_server_whose_engine_dies_ends_with_a_status_of_its_own(engine):
    engine, tokenizer = engine
    listener = run.listening("127.0.0.1", 0)
    options = SimpleNamespace(tls_cert=None, tls_key=None)
    timer = threading.Timer(1.0, kill, (engine,))
    timer.start()
    status = asyncio.run(run.serve(engine, tokenizer, None, ServerConfig(grace=1), Keys(), listener, options))
    timer.join()
    assert status == run.ENGINE_DIED
