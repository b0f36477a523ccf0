"""A conversation over an engine that can use tools and run code, and always is in order for the next message."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from chatglm.agent.actions import Actions, Ask
from chatglm.agent.alone import TakesTurns
from chatglm.agent.conversation import Conversation
from chatglm.agent.events import Event
from chatglm.agent.limits import Limits
from chatglm.agent.opening import check_parts, check_tools, check_version, checked_params, context_of, opened
from chatglm.agent.turn import Turn
from chatglm.agent.uploads import Upload, read_uploads
from chatglm.agent.window import Prompt, Window
from chatglm.chat.message import Message, Role, check_encodable
from chatglm.chat.saved import SavedConversation, load_file, save_file, vocabulary_of
from chatglm.engine.request import SamplingParams
from chatglm.errors import SessionError
from chatglm.tools import Tool, ToolBox

OFFICIAL_SAMPLING = SamplingParams(temperature=0.8, top_p=0.8)  # what the official `model.chat` does
_END = object()


@dataclass(frozen=True)
class _Order:
    """What was asked for in the call that began a turn."""

    limits: Limits
    params: SamplingParams


class Session(TakesTurns):
    """A conversation that acts.

    Its turns may call tools and run code any number of times, within the limits. However a turn ended - done, stopped,
    failed, left in the middle of the iteration - the next one works. Answers keep the ids they were generated with, so
    every prompt begins with the one before it and finds it in the engine's prefix cache.

    Args:
        engine: of the model, as `chatglm.engine_for(model, tokenizer)` makes it, or anything with its `submit`,
            `stream`, `abort` and `stats`.
        tokenizer: of the same model.
        system: a system prompt; None: the official words where there are tools or code, else none.
        tools: functions, `chatglm.tools.Tool` objects, or one `ToolBox`.
        sandbox: where code runs: "auto" opens the strongest isolation there is and closes it with the session; an
            open `chatglm.sandbox.Sandbox` stays the caller's; None: code is not run.
        max_rounds, max_errors, max_new_tokens, max_seconds: limits of one turn; see `Limits`.
        params: how tokens are chosen, and what ends an answer. With a seed the whole session can be repeated, see
            `chatglm.agent.answer.seeded`. A call that a stop string cuts short is not carried out.
        on_dangerous: asked with the call before a dangerous tool is used; only `True` allows it. "ask": the turn gives
            a `ConsentAsked` and waits for `answer`. None: no dangerous tool is used.
        context_length: tokens prompt and answer may have together; None: as many as the engine has room for.
        when_full: what becomes of a longer conversation. "cut": the prompt leaves out its oldest turns, with a notice;
            `history` keeps them. "refuse": `send` raises an error.

    Raises:
        SessionError: something that is no engine or no tokenizer; tools, code or a system prompt with ChatGLM2, which
            knows none of them; a wrong limit.
        SandboxError: the system cannot isolate code; the message says why and what would help.
    """

    def __init__(
        self,
        engine: Any,
        tokenizer: Any,
        *,
        system: str | None = None,
        tools: ToolBox | Iterable[Tool | Callable[..., Any]] = (),
        sandbox: Any = None,
        max_rounds: int = 10,
        max_errors: int = 3,
        max_new_tokens: int | None = None,
        max_seconds: float | None = 1800.0,
        params: SamplingParams | None = None,
        on_dangerous: Ask | None = None,
        context_length: int | None = None,
        when_full: Literal["cut", "refuse"] = "cut",
    ) -> None:
        given = locals()
        TakesTurns.__init__(self)  # super() would stand among the locals
        check_parts(engine, tokenizer)
        self.engine, self.tokenizer = engine, tokenizer
        self.limits = Limits(max_rounds, max_errors, max_new_tokens, max_seconds)
        self.params = checked_params(OFFICIAL_SAMPLING if params is None else params)
        self.window = Window(tokenizer, context_of(engine, context_length))
        self.when_full = when_full
        toolbox = tools if isinstance(tools, ToolBox) else ToolBox(tools)
        options = {name: value for name, value in given.items() if name not in ("self", "engine", "tokenizer")}
        self._options = options | {"tools": toolbox}
        check_version(tokenizer, system, toolbox, sandbox)
        self._owns_sandbox = isinstance(sandbox, str)
        self.actions = Actions(toolbox, opened(sandbox), on_dangerous)
        self._said = Conversation(system, self.actions)
        self._new_id = itertools.count(1).__next__
        self._answers = 0

    # talking

    def send(
        self,
        text: str,
        files: Sequence[Upload] = (),
        *,
        params: SamplingParams | None = None,
        max_new_tokens: int | None = None,
        max_seconds: float | None = None,
    ) -> Iterator[Event]:
        """Say something, and give the events of the turn that answers it; the last one is `TurnDone`.

        What is wrong with the call is an error at once. The turn runs while the iterator is read; leaving it ends the
        turn and keeps what was said so far. A turn in which nothing was said leaves no trace.

        Args:
            text: the user's message.
            files: files for the code interpreter, as paths or (name, bytes) pairs; they are put under /mnt/data.
            params, max_new_tokens, max_seconds: for this turn; None: those of the session.

        Raises:
            SessionError: the session is closed or in the midst of a turn; files without an interpreter.
            ContextFullError: the message alone is too long for the context; with `when_full="refuse"` also with
                everything before it.
            PromptError: the message is no Unicode text.
            GenerationError: while the events are read: the engine failed.
        """
        check_encodable(text, "the message")
        uploads = self._read_uploads(files)
        order = self._ordered(params, max_new_tokens, max_seconds)
        self._turns.check()
        question, told = self._said.question(text, {name: len(content) for name, content in uploads})
        asked = [*self.history, question]
        return self._send(asked, uploads, told, order, self.window.prompt(asked))

    def _send(
        self,
        asked: Sequence[Message],
        uploads: Sequence[tuple[str, bytes]],
        told: Collection[str],
        order: _Order,
        prompt: Prompt,
    ) -> Iterator[Event]:
        """`prompt` is that of the messages `asked`, if nothing is changed until the turn is read."""
        with self._alone():
            for name, content in uploads:
                self._put(name, content)
            before = self._said.messages
            now = [*before, asked[-1]]
            try:
                yield from self._answer(now, order, prompt if self._said.after_system(now) == asked else None)
            finally:
                if self._said.messages is not before:
                    self._said.told(told)

    def asend(
        self,
        text: str,
        files: Sequence[Upload] = (),
        *,
        params: SamplingParams | None = None,
        max_new_tokens: int | None = None,
        max_seconds: float | None = None,
    ) -> AsyncIterator[Event]:
        """`send` for asyncio: the model, tools and code run in a thread. Cancelling it stops the turn in order."""
        how = {"params": params, "max_new_tokens": max_new_tokens, "max_seconds": max_seconds}
        return self._asend(self.send(text, files, **how))  # type: ignore[arg-type]

    async def _asend(self, events: Iterator[Event]) -> AsyncIterator[Event]:
        pending: asyncio.Task[Any] | None = None
        try:
            while True:
                pending = asyncio.ensure_future(asyncio.to_thread(next, events, _END))
                event = await asyncio.shield(pending)
                if event is _END:
                    return
                yield event
        finally:
            if pending is not None and not pending.done():
                self.stop()
                await asyncio.wait([pending])
            await asyncio.to_thread(events.close)  # type: ignore[attr-defined]

    def regenerate(
        self,
        *,
        params: SamplingParams | None = None,
        max_new_tokens: int | None = None,
        max_seconds: float | None = None,
    ) -> Iterator[Event]:
        """Have the last message answered again; the events of the new answer, which takes the place of the old one.

        The last message is the one that is last when the events are read. The old answer stays if nothing new is said.
        What tools and code have changed in the world stays changed.

        Args:
            params, max_new_tokens, max_seconds: as for `send`.

        Raises:
            SessionError: nothing was said yet; also as for `send`.
        """
        order = self._ordered(params, max_new_tokens, max_seconds)
        self._turns.check()
        self._said.last_turn()
        return self._regenerate(order)

    def _regenerate(self, order: _Order) -> Iterator[Event]:
        with self._alone():
            yield from self._answer(self._said.messages[: self._said.last_turn() + 1], order)

    def answer(self, call_id: int, allowed: bool) -> None:
        """Say whether a dangerous tool may be used that a `ConsentAsked` asks about; from any thread.

        Args:
            call_id: the `id` of the event.
            allowed: only `True` allows it.

        Raises:
            SessionError: nothing waits for this answer any more.
        """
        self.actions.consents.answer(call_id, allowed)

    def upload(self, file: Upload) -> tuple[str, int]:
        """Put a file before the code interpreter now; the model is told with the next message.

        Returns:
            Its name there and its size in bytes.

        Raises:
            SessionError: there is no interpreter, the file cannot be read, or the session is in the midst of a turn.
        """
        [(name, content)] = self._read_uploads([file])
        with self._alone():
            self._put(name, content)
        return name, len(content)

    # the conversation

    def set_sandbox(self, sandbox: Any) -> None:
        """Lets code be run from now on, in an open `chatglm.sandbox.Sandbox`, which stays the caller's.

        Raises:
            SessionError: the session has an interpreter, or is in the midst of a turn; the model knows none.
        """
        if self.sandbox is not None:
            raise SessionError("this session has a code interpreter already; open another session for another one")
        check_version(self.tokenizer, self.system, self.actions.tools, sandbox)
        with self._alone():
            self.actions.sandbox = sandbox
            self._options = self._options | {"sandbox": sandbox}

    def set_system(self, text: str | None) -> None:
        check_version(self.tokenizer, text or None, self.actions.tools, self.sandbox)
        super().set_system(text)

    def _keep(self, messages: list[Message]) -> None:
        super()._keep(messages)
        self.window.left_out = 0

    def count_tokens(self) -> int:
        """Tokens of the conversation as the model reads it, up to where its next answer begins; 0 while it is empty."""
        return self.window.count(self.history) if self._said.messages else 0

    @property
    def context_length(self) -> int:
        """Tokens the conversation and an answer may have together."""
        return self.window.context_length

    @property
    def when_full(self) -> Literal["cut", "refuse"]:
        """What becomes of a conversation that is longer than the context; may be changed between turns."""
        return "cut" if self.window.may_cut else "refuse"

    @when_full.setter
    def when_full(self, what: Literal["cut", "refuse"]) -> None:
        if what not in ("cut", "refuse"):
            raise SessionError(f'when_full is {what!r}; it must be "cut" or "refuse"')
        self.window.may_cut = what == "cut"

    @property
    def sandbox(self) -> Any:
        """The code interpreter; None where there is none."""
        return self.actions.sandbox

    # keeping it

    def save(self, path: str | PathLike[str]) -> None:
        """Write the history to a JSON file, which `chatglm chat --load` reads too.

        Raises:
            ConversationError: the path holds something else, or cannot be written.
        """
        save_file(Path(path), self.history, vocabulary_of(self.tokenizer))

    def reopen(self, saved: SavedConversation | str | PathLike[str], *, other_tools: bool = False) -> bool:
        """Go on with a saved conversation instead of this one, its system message included.

        Variables of the code interpreter are not saved. Token ids of another vocabulary are dropped and their text
        encoded anew.

        Args:
            saved: a file, or what `chatglm.chat.saved.load_file` has read.
            other_tools: go on although tools the conversation offers are not there; the model is told of those that
                are, or of the old ones where there are none.

        Returns:
            Whether token ids could be kept.

        Raises:
            ConversationError: the file cannot be read, or holds no conversation.
            SessionError: the conversation offers tools that are not there; or in the midst of a turn.
        """
        document = saved if isinstance(saved, SavedConversation) else load_file(Path(saved))
        messages, same = document.open(vocabulary_of(self.tokenizer))
        system = messages[0] if messages and messages[0].role is Role.SYSTEM else None
        if system is not None:
            check_version(self.tokenizer, system.content, self.actions.tools, self.sandbox)
            if not other_tools:
                check_tools(system, self.actions.tools)
        with self._alone():
            self._said.reopen(messages)
            self.window.left_out = 0
        return same

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        engine: Any,
        tokenizer: Any,
        *,
        system: str | None = None,
        other_tools: bool = False,
        **options: Any,
    ) -> "Session":
        """A session that goes on with a saved history; see `reopen`. The options are those of the class.

        The system prompt is the saved one unless another is given.
        """
        check_parts(engine, tokenizer)
        saved = load_file(Path(path))
        session = cls(engine, tokenizer, system=system, **options)
        try:
            session.reopen(saved, other_tools=other_tools)
            if system is not None:
                session._said.replace_system(system)
        except BaseException:  # nobody would close the interpreter it has opened
            session.close()
            raise
        return session

    def fork(self, *, sandbox: Any = None) -> "Session":
        """A second session with the same history; from here on they go separate ways.

        A code interpreter is not shared: the fork has its own, with the same files (those in folders of their own
        aside) and without the variables.

        Args:
            sandbox: the fork's interpreter, where this session's was given as an object.

        Raises:
            SessionError: this session has an interpreter of the caller's and none was given for the fork.
        """
        if self.sandbox is not None and sandbox is None and not self._owns_sandbox:
            raise SessionError("the sandbox was given to this session; give the fork another one: fork(sandbox=...)")
        options = self._options if sandbox is None else {**self._options, "sandbox": sandbox}
        other = type(self)(self.engine, self.tokenizer, **options)
        other._said.like(self._said)
        other.window.left_out, other._answers = self.window.left_out, self._answers
        try:
            for file in self.sandbox.list() if self.sandbox is not None else ():
                other.sandbox.put(file.name, self.sandbox.get(file.name), folders=True)
        except BaseException:  # nobody would close the interpreter it has opened
            other.close()
            raise
        return other

    def close(self) -> None:
        """Stop a turn that is going on and close the interpreter the session has opened."""
        super().close()
        if self._owns_sandbox:
            self.sandbox.close()

    # one turn

    def _ordered(self, params: SamplingParams | None, max_new_tokens: int | None, max_seconds: float | None) -> _Order:
        given = {"max_new_tokens": max_new_tokens, "max_seconds": max_seconds}
        limits: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return _Order(replace(self.limits, **limits), checked_params(self.params if params is None else params))

    def _answer(self, asked: Sequence[Message], order: _Order, prompt: Prompt | None = None) -> Iterator[Event]:
        """Has the last message answered; whatever happens, the history then ends with a whole turn."""
        turn = Turn(
            self.engine,
            self._said.after_system(asked),
            self.window,
            self.actions,
            order.limits,
            order.params,
            lambda: self._stop.is_set() or self._turns.closed,
            number=self._answers,
            new_id=self._new_id,
            prompt=prompt,
        )
        try:
            yield from turn
        finally:
            self._answers += turn.rounds + 1
            if not turn.is_empty:
                self._said.messages = [*asked, *turn.messages()]

    def _read_uploads(self, files: Sequence[Upload]) -> list[tuple[str, bytes]]:
        uploads = read_uploads(files)
        if uploads and self.sandbox is None:
            raise SessionError("files were given and no code interpreter can read them; open one: sandbox='auto'")
        return uploads

    def _put(self, name: str, content: bytes) -> None:
        self.sandbox.put(name, content)
        self._said.uploaded(name, len(content))
