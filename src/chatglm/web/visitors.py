"""Everybody who has the page open: one `Visitor` for each browser, ended a while after its last page has gone."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chatglm.errors import SessionError
from chatglm.web.answering import Local, Remote
from chatglm.web.conversations import Conversations, new_folder
from chatglm.web.visitor import Visitor

PARKED_SECONDS = 60.0  # a page that is loaded again finds what it had
IDLE_SECONDS = 1800.0
MOST_VISITORS = 200
MOST_PAGES = 100  # of one visitor; a browser that has more open loads one again
SWEEP_SECONDS = 5.0
_log = logging.getLogger(__name__)


@dataclass
class _Place:
    """A visitor, the pages that show it, and when it was last used."""

    visitor: Visitor
    pages: dict[str, None] = field(default_factory=dict)  # the one opened first comes first
    used: float = 0.0
    left: float | None = None  # when the last page has gone


class Visitors:
    """The visitors of a server.

    Args:
        make: makes the visitor of a key.
        parked: seconds that one is kept whose last page has gone.
        idle: seconds after which one that nobody uses is ended.
        most: at once.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        make: Callable[[str], Visitor],
        *,
        parked: float = PARKED_SECONDS,
        idle: float = IDLE_SECONDS,
        most: int = MOST_VISITORS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make, self._parked, self._idle, self._most, self._clock = make, parked, idle, most, clock
        self._places: dict[str, _Place] = {}
        self._owners: dict[str, str] = {}  # page -> the key that has opened it
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._reaper: threading.Thread | None = None

    def begin(self) -> None:
        """Ends who has gone from now on, and everybody at the end of the program."""
        self._reaper = threading.Thread(target=self._reap, name="chatglm-web-reaper", daemon=True)
        self._reaper.start()
        atexit.register(self.close)

    def get(self, key: str, page: str | None = None) -> Visitor:
        """The visitor of a key, who is here now.

        Args:
            key: of the browser, or its login.
            page: which of its pages asks; None: a plain request.

        Raises:
            SessionError: the page is somebody else's, or there are too many visitors.
        """
        gone: list[Visitor] = []
        try:
            return self._get(key, page, gone)
        finally:
            for visitor in gone:
                _close(visitor)

    def _get(self, key: str, page: str | None, gone: list[Visitor]) -> Visitor:
        with self._lock:
            if page is not None and self._owners.get(page, key) != key:
                raise SessionError("this page belongs to another visitor; load it again")
            place = self._places.get(key)
            if place is None:
                gone += self._make_room()
                place = self._places[key] = _Place(self._make(key))
            if page is not None:
                self._owners[page], place.pages[page] = key, None
                place.left = None
                if len(place.pages) > MOST_PAGES:
                    self._forget_page(place, next(iter(place.pages)))
            elif not place.pages:
                place.left = self._clock()
            place.used = self._clock()
            return place.visitor

    def left(self, page: str) -> None:
        """A page has gone."""
        with self._lock:
            key = self._owners.pop(page, None)
            place = self._places.get(key) if key is not None else None
            if place is not None:
                place.pages.pop(page, None)
                if not place.pages:
                    place.left = self._clock()

    def owner(self, page: str) -> str | None:
        """Whose page that is; None: nobody has used it yet."""
        return self._owners.get(page)

    def busy(self) -> int:
        """How many answers are being written."""
        with self._lock:
            return sum(place.visitor.is_busy for place in self._places.values())

    def __len__(self) -> int:
        return len(self._places)

    def sweep(self) -> None:
        """Ends who has gone, and who has not come back for long."""
        now, gone = self._clock(), []
        with self._lock:
            for key, place in list(self._places.items()):
                parted = place.left is not None and now - place.left > self._parked
                idle = now - place.used > self._idle and not place.visitor.is_busy
                if parted or idle:
                    gone.append(self._end_place(key))
        for visitor in gone:
            _close(visitor)

    def close(self) -> None:
        """Ends everybody."""
        self._closed.set()
        atexit.unregister(self.close)
        with self._lock:
            places, self._places = self._places, {}
            self._owners = {}
        for place in places.values():
            _close(place.visitor)

    def _make_room(self) -> list[Visitor]:
        """Where all places are taken, who has said nothing makes room: a place costs a stranger one request.

        Raises:
            SessionError: everybody has said something.
        """
        if len(self._places) < self._most:
            return []
        silent = [key for key, place in self._places.items() if not place.visitor.told]
        if not silent:
            raise SessionError(f"there are {len(self._places)} visitors, which is the most; come back later")
        return [self._end_place(min(silent, key=lambda key: self._places[key].used))]

    def _end_place(self, key: str) -> Visitor:
        place = self._places.pop(key)
        for page in list(place.pages):
            self._forget_page(place, page)
        return place.visitor

    def _forget_page(self, place: _Place, page: str) -> None:
        place.pages.pop(page, None)
        self._owners.pop(page, None)

    def _reap(self) -> None:
        while not self._closed.wait(SWEEP_SECONDS):
            self.sweep()


def _close(visitor: Visitor) -> None:
    try:
        visitor.close()
    except Exception:
        _log.exception("a visitor could not be ended")  # the others must be looked after all the same


def visitors_of(answers: Local | Remote, folder: Path, *, parked: float = PARKED_SECONDS) -> Visitors:
    """The visitors of a server whose conversations lie in a folder; `parked` as `Visitors` has it.

    Raises:
        ConversationError: the folder cannot be made.
    """
    new_folder(folder)

    def make(key: str) -> Visitor:
        visitor = Visitor(answers, Conversations(folder, key))
        visitor.resume()
        return visitor

    return Visitors(make, parked=parked)
