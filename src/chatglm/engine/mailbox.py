"""Outputs on their way from the thread that steps into an event loop, with one wake-up for all that a step brings."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from chatglm.engine.request import Output

_AT_ONCE = 32  # readers woken before the loop may do something else


class Taker:
    """Gives the outputs of one request to a function, in the loop. Made by `Mailboxes`."""

    def __init__(self, mailbox: "Mailbox", take: Callable[[Output], object]) -> None:
        self._mailbox, self.take = mailbox, take

    def sink(self, output: Output) -> None:
        """Send an output; from any thread."""
        self._mailbox.send(self, output)


class Reader:
    """The outputs of one request for one task. Made by a `Mailbox`."""

    def __init__(self, mailbox: "Mailbox") -> None:
        self._mailbox = mailbox
        self._outputs: deque[Output] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def sink(self, output: Output) -> None:
        """Send an output; from any thread."""
        self._mailbox.send(self, output)

    def take(self, output: Output) -> None:
        """Receive it; in the loop."""
        self._outputs.append(output)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def next(self) -> Output:
        """The next output, as soon as it has come."""
        while not self._outputs:
            self._waiting = self._mailbox.loop.create_future()
            await self._waiting
        return self._outputs.popleft()


class Mailbox:
    """What is on its way into one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._arrived: deque[tuple[Reader | Taker, Output]] = deque()
        self._called = False

    def send(self, reader: "Reader | Taker", output: Output) -> None:
        """From any thread; it is read after `ring`."""
        if self.loop.is_closed():
            raise ConnectionError("the event loop of the reader is closed")
        self._arrived.append((reader, output))

    def ring(self) -> None:
        """Wake the loop if something has arrived and nobody has woken it since it looked last; from any thread."""
        if self._arrived and not self._called:
            self._called = True
            with suppress(RuntimeError):  # it was closed just now, and what has arrived is nobody's
                self.loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        self._called = False  # before looking: what comes after that wakes the loop again
        for _ in range(min(len(self._arrived), _AT_ONCE)):
            reader, output = self._arrived.popleft()
            reader.take(output)
        if self._arrived and not self._called:
            self._called = True
            self.loop.call_soon(self._hand_out)


class Mailboxes:
    """The mailboxes of an engine, one for each event loop that reads."""

    def __init__(self) -> None:
        self._of_loop: dict[asyncio.AbstractEventLoop, Mailbox] = {}
        self._lock = threading.Lock()

    def reader(self) -> Reader:
        """A reader for a task of the loop that runs."""
        return Reader(self._mailbox())

    def taker(self, take: Callable[[Output], object]) -> Taker:
        """The same for a function that the loop is to call with each output."""
        return Taker(self._mailbox(), take)

    def _mailbox(self) -> Mailbox:
        loop = asyncio.get_running_loop()
        with self._lock:
            mailbox = self._of_loop.get(loop)
            if mailbox is None:
                self._of_loop = {known: box for known, box in self._of_loop.items() if not known.is_closed()}
                mailbox = self._of_loop[loop] = Mailbox(loop)
        return mailbox

    def ring(self) -> None:
        """Everything that a step has brought is on its way."""
        with self._lock:
            for mailbox in self._of_loop.values():
                mailbox.ring()
