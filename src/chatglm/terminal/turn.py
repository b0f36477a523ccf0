"""One answer: run the model, show what it says, and keep what it said whatever happens."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

from chatglm.chat.message import Done, Message
from chatglm.terminal.responder import Reply, Responder
from chatglm.terminal.sampling import Sampling
from chatglm.terminal.screen import Screen

Clock = Callable[[], float]


@dataclass(frozen=True)
class Timing:
    """How fast an answer came. Seconds; `first_token` is the wait for it, `total` includes that."""

    prompt_tokens: int
    new_tokens: int
    first_token: float
    total: float

    @property
    def tokens_per_second(self) -> float:
        """Speed of generation after the first token, which also had to read the prompt."""
        seconds = self.total - self.first_token
        return (self.new_tokens - 1) / seconds if self.new_tokens > 1 and seconds > 0 else 0.0


@dataclass(frozen=True)
class Turn:
    """The outcome: the messages said, why it ended (a word of `Done` or `TurnDone`; error), the error, the timing."""

    messages: list[Message]
    reason: str
    error: Exception | None
    timing: Timing

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said that could stand in a conversation."""
        cut_short = self.reason in ("abort", "error")
        return not self.messages or (cut_short and not any(message.content for message in self.messages))


def take_turn(
    responder: Responder,
    messages: Sequence[Message],
    sampling: Sampling,
    screen: Screen,
    *,
    seed: int | None = None,
    clock: Clock = time.monotonic,
) -> Turn:
    """Have `messages` answered on the screen. Ctrl-C ends the answer, an error is part of the outcome: none escapes."""
    from chatglm.agent.events import TurnDone

    stop = threading.Event()
    reply: Reply | None = None
    reason, error, first, began = "error", None, None, clock()
    try:
        with stop_on_interrupt(stop):
            reply = responder.reply(messages, sampling, seed=seed, stop=stop)
            for event in reply:
                first = clock() if first is None else first
                screen.show(event)
                if isinstance(event, (Done, TurnDone)):
                    reason = event.reason
    except KeyboardInterrupt:
        reason = "abort"
    except BrokenPipeError:
        raise
    except Exception as caught:
        # Whatever the model raises, the conversation goes on; the caller shows it.
        error = caught
    screen.end_line()
    ended = clock()
    prompt, new = (reply.prompt_tokens, reply.new_tokens) if reply else (0, 0)
    timing = Timing(prompt, new, (ended if first is None else first) - began, ended - began)
    return Turn(reply.messages() if reply else [], reason, error, timing)


@contextlib.contextmanager
def stop_on_interrupt(stop: threading.Event) -> Iterator[None]:
    """Make the first Ctrl-C set `stop`, so that the answer ends in order; one more raises KeyboardInterrupt at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

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
