"""One turn on the screen: its events are shown, Ctrl-C ends it in order, and how it ended is told."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from chatglm.errors import ChatGLMError
from chatglm.terminal.screen import Screen
from chatglm.words import Words

if TYPE_CHECKING:
    from chatglm.agent.events import TurnDone


class Stoppable(Protocol):
    """A session or a task: what Ctrl-C ends."""

    def stop(self) -> None: ...


def show_turn(events: Iterator[Any], session: Stoppable, screen: Screen) -> TurnDone | None:
    """Draw the events of a turn; the last of them, None where Ctrl-C came twice. Errors of the turn are the caller's.

    Whatever happens, the session keeps what was said.
    """
    from chatglm.agent.events import TurnDone

    done = None
    try:
        with contextlib.closing(events), stop_on_interrupt(session):  # type: ignore[type-var]
            for event in events:
                screen.show(event)
                done = event if isinstance(event, TurnDone) else done
    except KeyboardInterrupt:
        pass
    finally:
        screen.end_line()
    return done


def statistics_line(done: TurnDone, words: Words) -> str:
    """What --stats writes."""
    first = done.first_token_seconds
    return words(
        "statistics",
        prompt=done.prompt_tokens,
        first=f"{done.seconds if first is None else first:.2f}",
        new=done.new_tokens,
        total=f"{done.seconds:.2f}",
        speed=f"{done.tokens_per_second:.1f}",
    )


def describe(error: Exception) -> str:
    """One line: our own errors explain themselves, of others the kind helps to understand the text."""
    return str(error) if isinstance(error, ChatGLMError) else f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def stop_on_interrupt(what: Stoppable) -> Iterator[None]:
    """Make the first Ctrl-C stop the turn, so that it ends in order; one more raises KeyboardInterrupt at once."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        what.stop()

    with _handler(handle):
        yield


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    """A Ctrl-C that comes a moment after the answer has ended must not end the program and lose the conversation."""
    with _handler(lambda number, frame: None):
        yield


@contextlib.contextmanager
def _handler(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
