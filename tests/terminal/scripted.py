"""A responder that says what it is told to, for tests: no model, the "tokens" are characters."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from chatglm.chat.message import Done, Event, Message, Role, TextDelta
from chatglm.terminal.sampling import Sampling


@dataclass
class ScriptedReply:
    text: str
    prompt_tokens: int
    stop: threading.Event
    reason: str = "stop"
    fails_after: int | None = None
    interrupt_after: int | None = None
    said: str = ""

    @property
    def new_tokens(self) -> int:
        return len(self.said)

    def __iter__(self) -> Iterator[Event]:
        for character in self.text:
            if self.fails_after == len(self.said):
                raise RuntimeError("out of memory")
            if self.interrupt_after == len(self.said):
                signal_interrupt()
            if self.stop.is_set():
                yield Done("abort")
                return
            self.said += character
            yield TextDelta(character)
        yield Done(self.reason)

    def messages(self) -> list[Message]:
        return [Message(Role.ASSISTANT, self.said, ids=tuple(map(ord, self.said)))]


@dataclass
class ScriptedResponder:
    """Answers with `script` in turn (a text, or keyword arguments of ScriptedReply); records what it was asked."""

    script: list[str | dict[str, object]]
    name: str = "scripted"
    context_length: int = 100
    vocabulary: str = "characters"
    asked: list[list[Message]] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)
    seeds: list[int | None] = field(default_factory=list)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content) for message in messages)

    def reply(
        self, messages: Sequence[Message], sampling: Sampling, *, seed: int | None, stop: threading.Event
    ) -> ScriptedReply:
        self.asked.append(list(messages))
        self.samplings.append(sampling)
        self.seeds.append(seed)
        step = self.script.pop(0)
        options = {"text": step} if isinstance(step, str) else step
        return ScriptedReply(prompt_tokens=self.count_tokens(messages), stop=stop, **options)  # type: ignore[arg-type]


def signal_interrupt() -> None:
    """What Ctrl-C does to a process, delivered before this returns."""
    import signal

    signal.raise_signal(signal.SIGINT)
