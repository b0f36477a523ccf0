"""Many who come, have code run, and close their tab: nothing of them stays behind. With real connections and guests."""

import os
import socket
import time
from contextlib import contextmanager

import psutil
import pytest
from web.program import Program
from web.running_page import SECONDS, RunningApp
from web.streamlit_visit import StreamlitVisit

from chatglm.web.gate import COOKIE
from chatglm.web.visitors import SWEEP_SECONDS

pytestmark = pytest.mark.slow


@pytest.fixture
def hasty(has_sandbox, request):
    """An app whose visitors are ended a second after they have gone."""
    if not has_sandbox:
        pytest.skip("code cannot be isolated here")
    running = RunningApp("--code", "--hasty", *request.param)
    yield running
    assert running.end() == 0


def held(app):
    """How many processes and open files the app has."""
    process = psutil.Process(app.process.pid)
    return len(process.children(recursive=True)), len(os.listdir(f"/proc/{process.pid}/fd"))


def settled(app):
    """The same, when it has not changed for a while: longer than a visitor is kept who has gone."""
    last, since = held(app), time.monotonic()
    for _ in range(SECONDS * 10):
        time.sleep(0.1)
        if (now := held(app)) != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > 2 * SWEEP_SECONDS:
            return now
    raise AssertionError(f"it does not come to rest; there are {last} processes and files")


@contextmanager
def open_tab(url, page, cookie):
    """The connection that an open tab holds, and that breaks off when it is closed."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as alive:
        asks = f"GET /gradio_api/heartbeat/{page} HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: {COOKIE}={cookie}\r\n\r\n"
        alive.sendall(asks.encode())
        assert b" 200 OK" in alive.recv(1000)
        yield


@pytest.mark.parametrize("hasty", [()], indirect=True)
def test_a_hundred_closed_tabs_leave_no_guest(hasty):
    def visit(number):
        with Program(hasty.url, f"tab{number}of100") as tab:
            assert tab.run(tab.event("mode", "input"), ["code"])[0]["success"]
            with open_tab(hasty.url, tab.page, tab.client.cookies[COOKIE]):
                tab.send("files")
                assert "Done, 1 results." in str(tab.shown())

    visit(0)
    processes, files = settled(hasty)
    for number in range(100):
        visit(1 + number)
    assert held(hasty)[0] > processes  # those of the last ones
    now = settled(hasty)
    assert now[0] <= processes
    assert now[1] <= files + 5


@pytest.mark.parametrize("hasty", [("--streamlit",)], indirect=True)
def test_closed_pages_of_streamlit_leave_no_guest(browser, hasty):
    def visit():
        one = StreamlitVisit(browser, hasty.url)
        one.mode("🧑‍💻")
        one.write("loop")  # the page is closed in the midst of a cell
        one.reads("while True: pass")
        one.close()

    visit()
    processes, _ = settled(hasty)  # Streamlit keeps its own sessions a while longer, with three files each
    for _ in range(10):
        visit()
    assert settled(hasty)[0] <= processes
