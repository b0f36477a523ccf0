"""Waiting for work that may hang, without hanging with it."""

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.05  # how soon a stop is noticed; a result is noticed at once


def start(work: Callable[[], T]) -> "Future[T]":
    """Begins work in a thread of its own, which does not keep the process alive."""
    future: Future[T] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(work))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="chatglm-work", daemon=True).start()
    return future


def wait(future: "Future[T]", stopped: Callable[[], bool]) -> bool:
    """Waits until the work is done, True, or until `stopped` says so, False; the thread goes on then."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    while not done.wait(POLL_SECONDS):
        if stopped():
            return future.done()
    return True
