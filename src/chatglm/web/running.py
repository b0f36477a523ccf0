"""A turn that goes on by itself: a thread takes it, pages look at its view as often as they can draw."""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from chatglm.agent.events import Notice, TurnDone
from chatglm.web.throttle import Throttle
from chatglm.web.told import Told, compact
from chatglm.web.view import Part, Step, View

POLL_SECONDS = 0.03  # how soon a page notices news
_log = logging.getLogger(__name__)


class RunningTurn:
    """A turn that is being taken.

    Args:
        told: what was asked; its events are there when the turn is over.
        events: as a session gives them.
        view: what takes them in.
        over: called in the turn's thread, when all is over but `is_over`.

    Attributes:
        error: what has broken it off.
        is_drawn: whether a page has shown its end.
        shown: the question to the visitor that a page has shown last.
        settled: the pages that have shown all that changes with its end.
    """

    def __init__(self, told: Told, events: Iterator[Any], view: View, over: Callable[[RunningTurn], None]) -> None:
        self.told, self.view = told, view
        self.error: Exception | None = None
        self.is_drawn = False
        self.shown: Step | None = None
        self.settled: set[str] = set()
        self._events, self._over, self._ended = events, over, threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="chatglm-web-turn", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return self._ended.is_set()

    @property
    def done(self) -> TurnDone | None:
        return self.view.done

    @property
    def asking(self) -> Step | None:
        """The step at which the turn waits for the visitor."""
        with self._lock:
            return None if self.is_over else self.view.asking

    def answered(self) -> None:
        """The visitor has answered what was asked."""
        with self._lock:
            self.view.answered()

    def parts(self) -> list[Part]:
        """What there is to see now."""
        with self._lock:
            return [copy.copy(part) for part in self.view.parts]

    def wait(self, seconds: float) -> bool:
        """Whether it is over, within that time."""
        return self._ended.wait(seconds)

    async def news(self, throttle: Throttle) -> AsyncIterator[None]:
        """Tells when to draw: at once, whenever there is something new, but not too often, and at the end.

        Ends when the turn is over, or waits for the visitor.
        """
        for pause in self.pauses(throttle):
            if pause:
                await asyncio.sleep(pause)
            else:
                yield

    def pauses(self, throttle: Throttle) -> Iterator[float]:
        """The same as `news` for who has a thread: seconds to wait, one after another; 0: it is time to draw."""
        seen = self.view.version
        yield 0
        while not (self.is_over or self.asking):
            if self.view.version == seen:
                yield POLL_SECONDS
            elif pause := throttle.wait(self._length()):
                yield min(POLL_SECONDS, pause)
            else:
                seen = self.view.version
                yield 0
        yield 0

    def _length(self) -> int:
        last = self.view.parts[-1] if self.view.parts else None
        return len(getattr(last, "text", "") or getattr(last, "written", ""))

    def _run(self) -> None:
        events: list[Any] = []
        try:
            for event in self._events:
                events.append(event)
                with self._lock:
                    self.view.add(event)
        except Exception as error:  # whatever the model raises, the conversation goes on
            _log.warning("a turn has failed: %r", error)
            self.error = error
            events.append(Notice("failed", reason=str(error)))
        self.told.events = compact(events)
        try:
            self._over(self)
        except Exception as error:
            _log.exception("the end of a turn could not be kept")
            self.error = self.error or error
        self._ended.set()
