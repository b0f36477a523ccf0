"""A conversation over a server in the OpenAI format, with what a `Session` has for whoever draws its events."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from chatglm.agent.actions import Actions
from chatglm.agent.alone import TakesTurns
from chatglm.agent.conversation import Conversation
from chatglm.agent.events import Event, TurnDone, TurnReason
from chatglm.agent.remote_api import RemoteApi, events
from chatglm.chat.message import Message, Role, TextDelta, check_encodable
from chatglm.chat.saved import SavedConversation, load_file, save_file
from chatglm.errors import RemoteError, SessionError
from chatglm.tools import ToolBox

POLL_SECONDS = 0.05  # how soon a stop is noticed
VOCABULARY = ""  # of a saved conversation: no token ids are known here
_END = object()


class RemoteSession(TakesTurns):
    """A conversation kept here and answered there. The server carries out nothing, and neither does this.

    `send`, `regenerate`, `stop`, `undo`, `clear`, `set_system`, `save` and `reopen` do what they do for a `Session`.

    Args:
        api: the server.
        model: its name there; None: the first one the server lists.
        system: a system prompt.
        options: further fields of every request, such as temperature and max_tokens.

    Raises:
        RemoteError: the server does not answer, or lists no model.
    """

    def __init__(
        self,
        api: RemoteApi,
        model: str | None = None,
        *,
        system: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.api, self.options = api, dict(options or {})
        listed = _models(api)
        self.model = model or next(iter(listed), None)
        if self.model is None:
            raise RemoteError(f"{api.base} lists no models; name one")
        self.context_length: int = listed.get(self.model) or 0  # 0: the server does not tell
        self.sandbox = None
        self._said = Conversation(system, Actions(ToolBox()))
        self._tokens = self._answers = 0

    # talking

    def send(self, text: str) -> Iterator[Event]:
        """Say something, and give the events of the answer; the last one is `TurnDone`.

        Raises:
            SessionError: in the midst of a turn. PromptError: no Unicode text.
            RemoteError: while the events are read: the server has refused, or broken off.
        """
        check_encodable(text, "the message")
        self._turns.check()
        return self._answered(lambda: [*self._said.messages, Message(Role.USER, text)])

    def regenerate(self) -> Iterator[Event]:
        """Have the last message answered again; the old answer stays if nothing new is said.

        Raises:
            SessionError: nothing was said yet, or in the midst of a turn.
        """
        self._turns.check()
        self._said.last_turn()
        return self._answered(lambda: self._said.messages[: self._said.last_turn() + 1])

    def upload(self, file: Any) -> tuple[str, int]:
        """There is no interpreter here.

        Raises:
            SessionError: always.
        """
        raise SessionError(f"{file!r} cannot be uploaded: no code is run over a server; leave out --api-base")

    # the conversation

    def count_tokens(self) -> int:
        """Tokens of the conversation as the server has told them with its last answer."""
        return self._tokens if self._said.messages else 0

    def save(self, path: str | PathLike[str]) -> None:
        """Write the history to a file, which any chat and session can read."""
        save_file(Path(path), self.history, VOCABULARY)

    def reopen(self, saved: SavedConversation | str | PathLike[str], *, other_tools: bool = False) -> bool:
        """Go on with a saved conversation instead of this one.

        Returns:
            True: there are no token ids that could be lost.
        """
        document = saved if isinstance(saved, SavedConversation) else load_file(Path(saved))
        with self._alone():
            self._said.reopen([replace(message, ids=None) for message in document.messages])
            self._tokens = 0
        return True

    # one turn

    def _answered(self, asked_when_read: Callable[[], list[Message]]) -> Iterator[Event]:
        with self._alone():
            asked = asked_when_read()
            answer = _Answer(self._said.after_system(asked))
            try:
                yield from self._read(answer)
            finally:
                if answer.text.strip():
                    self._said.messages = [*asked, Message(Role.ASSISTANT, answer.text.strip())]
                    self._tokens = answer.prompt_tokens + answer.new_tokens
            yield answer.done(self._stop.is_set())

    def _read(self, answer: _Answer) -> Iterator[Event]:
        body = {
            "model": self.model,
            "messages": _as_openai(answer.asked),
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.options,
        }
        if "seed" in self.options:  # as in `chatglm.agent.answer.seeded`
            body["seed"] = self.options["seed"] + self._answers
        self._answers += 1
        reader = _Reader(self.api, body)
        try:
            for chunk in reader.chunks(self._stop.is_set):
                if text := answer.take(chunk):
                    yield TextDelta(text)
        finally:
            reader.close()


class _Answer:
    """What the chunks of one answer have told."""

    def __init__(self, asked: Sequence[Message]) -> None:
        self.asked, self.text = asked, ""
        self.prompt_tokens = self.new_tokens = 0
        self.reason: TurnReason = "abort"
        self._began = self._last = time.monotonic()
        self._first: float | None = None

    def take(self, chunk: Any) -> str:
        """The text a chunk adds.

        Raises:
            RemoteError: it is an error, or no chunk.
        """
        if not isinstance(chunk, dict) or "error" in chunk:
            raise RemoteError(f"the answer has broken off: {_message(chunk)}")
        if isinstance(usage := chunk.get("usage"), dict):
            self.prompt_tokens = int(usage.get("prompt_tokens") or 0)
            self.new_tokens = int(usage.get("completion_tokens") or 0)
        try:
            choice: Any = next(iter(chunk.get("choices") or ()), {})
            text = (choice.get("delta") or {}).get("content") or ""
            if choice.get("finish_reason"):
                self.reason = "length" if choice["finish_reason"] == "length" else "stop"
        except (AttributeError, TypeError):
            raise RemoteError(f"the server has sent {chunk!r:.200}, which is no chunk of an answer") from None
        if text:
            self._last = time.monotonic()
            self._first = self._first or self._last - self._began
            self.text += text
        return str(text)

    def done(self, stopped: bool) -> TurnDone:
        kept, now = bool(self.text.strip()), time.monotonic()
        writing = 0.0 if self._first is None else self._last - self._began - self._first
        reason: TurnReason = "abort" if stopped else self.reason
        return TurnDone(
            reason, 0, self.prompt_tokens, self.new_tokens, now - self._began, kept, self._first, writing
        )  # fmt: skip


class _Reader:
    """Reads a stream in a thread, so that a stop need not wait for the next chunk."""

    def __init__(self, api: RemoteApi, body: Mapping[str, Any]) -> None:
        self._api, self._body = api, body
        self._arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._closed, self._answer = False, None
        threading.Thread(target=self._run, name="chatglm-remote", daemon=True).start()

    def chunks(self, stopped: Callable[[], bool]) -> Iterator[Any]:
        while not stopped():
            try:
                item = self._arrived.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if item is _END:
                return
            if isinstance(item, Exception):
                raise item
            yield item

    def close(self) -> None:
        """Nobody reads any more: the thread closes the connection with the next chunk, which ends the answer there."""
        self._closed = True

    def _run(self) -> None:
        try:
            with self._api.open("/chat/completions", self._body) as answer:
                for chunk in events(answer):
                    if self._closed:
                        return
                    self._arrived.put(chunk)
        except Exception as error:
            self._arrived.put(error)
        self._arrived.put(_END)


def _as_openai(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as every server reads them: what a tool has said in a saved conversation is told as the user's words."""
    roles = {Role.OBSERVATION: "user"}
    return [
        {"role": roles.get(message.role, message.role.value), "content": _text(message)} for message in messages
    ]  # fmt: skip


def _text(message: Message) -> str:
    return f"{message.metadata}\n{message.content}" if message.metadata else message.content


def _models(api: RemoteApi) -> dict[str, int]:
    """The names of a server's models, and the context of each where it tells."""
    found: dict[str, int] = {}
    listed = api.get("/models")
    for card in listed.get("data", ()) if isinstance(listed, dict) else ():
        with suppress(AttributeError, KeyError, TypeError, ValueError):
            found[str(card["id"])] = int(card.get("max_model_len") or 0)
    return found


def _message(chunk: Any) -> str:
    told = chunk.get("error") if isinstance(chunk, dict) else chunk
    return str(told.get("message", told)) if isinstance(told, dict) else f"{told!r:.200}"
