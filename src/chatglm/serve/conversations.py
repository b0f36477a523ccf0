"""Conversations that act on the server: one `Session` and interpreter each, seen by one key only, ended when idle."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

from chatglm.agent.session import Session
from chatglm.errors import ChatGLMError, SandboxError, SessionError
from chatglm.serve.config import ServerConfig
from chatglm.serve.errors import ApiError, from_ours
from chatglm.serve.tool_calls import new_id
from chatglm.tools import Tool, named

LEAVE_SECONDS = 10.0  # that a turn has to end after it was stopped
_END = object()
_OF_FILE = re.compile(r"\.(py|json)(:|$)")


class RunningTurn:
    """A turn that a thread takes while its events are read on the event loop.

    Args:
        session: whose turn it is.
        events: as `Session.send` gives them.
    """

    def __init__(self, session: Session, events: Iterator[Any]) -> None:
        self.session, self._events = session, events
        self._loop, self._arrived = asyncio.get_running_loop(), asyncio.Queue[Any]()
        self._thread = threading.Thread(target=self._run, name="chatglm-turn", daemon=True)
        self._thread.start()

    async def events(self) -> AsyncGenerator[Any, None]:
        """The events as they come.

        Raises:
            ApiError: the turn was broken off.
        """
        while (item := await self._arrived.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item

    def fail(self, error: ApiError) -> None:
        """Stop it; whoever reads gets the error."""
        self.session.stop()
        self._arrived.put_nowait(error)

    async def end(self) -> None:
        """Stop it, and wait until it has ended in order."""
        self.session.stop()
        await asyncio.to_thread(self._thread.join, LEAVE_SECONDS)

    def _run(self) -> None:
        try:
            for event in self._events:
                self._tell(event)
        except Exception as error:
            self._tell(error)
        self._tell(_END)

    def _tell(self, item: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, item)
        except RuntimeError:  # the loop has ended, and nobody reads any more
            self.session.stop()


class Conversation:
    """One conversation of a key. Its id tells where it is held, if servers are several."""

    def __init__(self, owner: str, session: Session, sandbox: Any, home: str = "") -> None:
        self.id, self.owner = new_id(f"conv_{home}-" if home else "conv_"), owner
        self.session, self.sandbox = session, sandbox
        self.created, self.used = int(time.time()), time.monotonic()
        self.busy = False
        self.turn: RunningTurn | None = None  # the one that goes on

    def card(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "agent.conversation",
            "created_at": self.created,
            "busy": self.busy,
            "messages": [message.to_dict() for message in self.session.history],
        }

    def close(self) -> None:
        """Ends it and its interpreter; blocks for a moment."""
        self.session.close()
        if self.sandbox is not None:
            self.sandbox.close()


class Conversations:
    """All conversations of a server.

    Args:
        engine, tokenizer: what answers.
        config: tools, isolation, limits.
        pool: gives interpreters, as `chatglm.sandbox.SandboxPool` does; None: no code is run.

    Raises:
        ToolError: a tool that cannot be loaded.
    """

    def __init__(self, engine: Any, tokenizer: Any, config: ServerConfig, pool: Any = None, home: str = "") -> None:
        self.engine, self.tokenizer, self.config, self.pool, self.home = engine, tokenizer, config, pool, home
        parts = [part for text in config.tools for part in text.split(",")]
        self._files = [part for part in parts if _OF_FILE.search(part)]
        self._built_in = [part for part in parts if not _OF_FILE.search(part)]
        self._shared = named(self._files)  # a file is run, and a server started, once
        self._open: dict[str, Conversation] = {}
        self._coming: dict[str, int] = {}  # by owner: those that are being opened
        self._sweeper: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Ends idle conversations from now on."""
        self._sweeper = asyncio.ensure_future(self._sweep())

    async def end(self) -> None:
        """Ends all conversations."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        for conversation in list(self._open.values()):
            await self.close(conversation)
        if self.pool is not None:
            await asyncio.to_thread(self.pool.close)

    async def open(self, owner: str, **options: Any) -> Conversation:
        """A new conversation; the options are those of `Session`.

        Raises:
            ApiError: 429, the owner has too many; 400, options that cannot be; 503, there is no interpreter.
        """
        count = len(self.of(owner)) + self._coming.get(owner, 0)
        if count >= self.config.max_conversations:
            message = f"this key has {count} conversations; end one, or wait until one has been idle long enough"
            raise ApiError(429, message, code="too_many_conversations", retry_after=60)
        self._coming[owner] = self._coming.get(owner, 0) + 1
        try:
            made = await asyncio.to_thread(self._made, owner, options)
        except SandboxError as error:
            raise ApiError(503, f"no interpreter can be had: {error}", code="no_interpreter", retry_after=10) from None
        except SessionError as error:
            raise ApiError(400, str(error), code="invalid_value") from None
        finally:
            self._coming[owner] -= 1
        self._open[made.id] = made
        return made

    def _made(self, owner: str, options: dict[str, Any]) -> Conversation:
        sandbox = self.pool.take() if self.pool is not None else None
        try:
            tools: Sequence[Tool] = [*self._shared, *named(self._built_in, sandbox=sandbox)]
            most = self.config.timeout
            session = Session(
                self.engine,
                self.tokenizer,
                tools=tools,
                sandbox=sandbox,
                on_dangerous="ask",
                max_seconds=most,
                **options,
            )
        except BaseException:
            if sandbox is not None:
                sandbox.close()
            raise
        return Conversation(owner, session, sandbox, self.home)

    def of(self, owner: str) -> list[Conversation]:
        return [conversation for conversation in self._open.values() if conversation.owner == owner]

    def get(self, conversation_id: str, owner: str) -> Conversation:
        """A conversation of an owner; it counts as used now.

        Raises:
            ApiError: 404, there is none; those of others are not told of.
        """
        found = self._open.get(conversation_id)
        if found is None or found.owner != owner:
            message = f"there is no conversation {conversation_id!r:.100}; it may have been idle for too long"
            raise ApiError(404, message, code="conversation_not_found")
        found.used = time.monotonic()
        return found

    async def send(self, conversation: Conversation, text: str, files: Sequence[tuple[str, bytes]]) -> RunningTurn:
        """Has a message answered; `left` must be awaited at its end.

        Raises:
            ApiError: 409, it is in the midst of a turn; 400, a message that cannot be answered.
        """
        if conversation.busy:
            raise ApiError(409, "the conversation is in the midst of a turn; wait, or stop it", code="busy")
        conversation.busy = True
        try:
            events = await asyncio.to_thread(conversation.session.send, text, files)
            conversation.turn = RunningTurn(conversation.session, events)
            return conversation.turn
        except BaseException as error:
            conversation.busy = False
            if isinstance(error, SessionError):
                raise ApiError(400, str(error), code="invalid_value") from None
            raise from_ours(error) if isinstance(error, ChatGLMError) else error from None

    async def left(self, conversation: Conversation, turn: RunningTurn) -> None:
        """Ends a turn, if it goes on."""
        await turn.end()
        if conversation.turn is turn:
            conversation.turn, conversation.busy, conversation.used = None, False, time.monotonic()

    async def close(self, conversation: Conversation) -> None:
        """Ends a conversation."""
        self._open.pop(conversation.id, None)
        await asyncio.to_thread(conversation.close)

    async def _sweep(self) -> None:
        idle = self.config.conversation_idle
        while True:
            await asyncio.sleep(min(30.0, idle / 4))
            now = time.monotonic()
            for conversation in list(self._open.values()):
                if not conversation.busy and now - conversation.used > idle:
                    await self.close(conversation)
