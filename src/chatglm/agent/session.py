"""A conversation over an engine that can use tools and run code, and always is in order for the next message."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from chatglm.agent.actions import Actions, Ask
from chatglm.agent.events import Event
from chatglm.agent.limits import Limits
from chatglm.agent.opening import check_tools, check_version, checked_params, context_of, opened
from chatglm.agent.prompts import reopened, system_message
from chatglm.agent.turn import ActingTurn
from chatglm.agent.uploads import Upload, read_uploads, uploaded_text
from chatglm.agent.window import Window
from chatglm.chat.message import Message, Role, check_encodable
from chatglm.chat.saved import load_file, save_file, vocabulary_of
from chatglm.engine.request import SamplingParams
from chatglm.errors import SessionError
from chatglm.tools import Tool, ToolBox

OFFICIAL_SAMPLING = SamplingParams(temperature=0.8, top_p=0.8)  # what the official `model.chat` does
_END = object()


class Session:
    """A conversation that acts.

    Its turns may call tools and run code any number of times, within the limits. However a turn ended - done, stopped,
    failed, left in the middle of the iteration - the next one works. Answers keep the ids they were generated with, so
    every prompt begins with the one before it and finds it in the engine's prefix cache.

    Args:
        engine: a `chatglm.engine.Engine`, or anything with its `submit`, `stream` and `abort`.
        tokenizer: of the same model.
        system: a system prompt; None: the official words where there are tools or code, else none.
        tools: functions, `chatglm.tools.Tool` objects, or one `ToolBox`.
        sandbox: where code runs: "auto" opens the strongest isolation there is and closes it with the session; an
            open `chatglm.sandbox.Sandbox` stays the caller's; None: code is not run.
        max_rounds, max_errors, max_new_tokens, max_seconds: limits of one turn; see `Limits`.
        params: how tokens are chosen, and what ends an answer. With a seed the whole session can be repeated. A call
            that a stop string cuts short is not carried out.
        on_dangerous: asked with the call before a dangerous tool is used; only `True` allows it, without it none is.
        context_length: tokens prompt and answer may have together; None: as many as the engine has room for. Longer
            conversations lose their oldest turns in the prompt, with a notice; `history` keeps them.

    Raises:
        SessionError: tools, code or a system prompt with ChatGLM2, which knows none of them; a wrong limit.
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
    ) -> None:
        given = locals()
        self.engine, self.tokenizer = engine, tokenizer
        self.limits = Limits(max_rounds, max_errors, max_new_tokens, max_seconds)
        self.params = checked_params(OFFICIAL_SAMPLING if params is None else params)
        self.window = Window(tokenizer, context_of(engine, context_length))
        toolbox = tools if isinstance(tools, ToolBox) else ToolBox(tools)
        options = {name: value for name, value in given.items() if name not in ("self", "engine", "tokenizer")}
        self._options = options | {"tools": toolbox}
        check_version(tokenizer, system, toolbox, sandbox)
        self._system = system_message(system, toolbox.schemas(), sandbox is not None)
        self._owns_sandbox = isinstance(sandbox, str)
        self.actions = Actions(toolbox, opened(sandbox), on_dangerous)
        self._messages: list[Message] = []  # without the system message
        self._stop, self._busy = threading.Event(), threading.Lock()
        self._answers = 0
        self._closed = False

    # talking

    def send(self, text: str, files: Sequence[Upload] = ()) -> Iterator[Event]:
        """Say something, and give the events of the turn that answers it; the last one is `TurnDone`.

        The turn runs while the iterator is read; leaving it ends the turn and keeps what was said so far. A turn in
        which nothing was said leaves no trace.

        Args:
            text: the user's message.
            files: files for the code interpreter, as paths or (name, bytes) pairs; they are put under /mnt/data.

        Raises:
            SessionError: the session is closed or in the midst of a turn; files without an interpreter.
            PromptError: the message alone is too long for the context, or no Unicode text.
            GenerationError: the engine failed.
        """
        check_encodable(text, "the message")
        uploads = read_uploads(files)
        if uploads and self.actions.sandbox is None:
            raise SessionError("files were given and no code interpreter can read them; open one: sandbox='auto'")
        return self._send(text, uploads)

    def _send(self, text: str, uploads: Sequence[tuple[str, bytes]]) -> Iterator[Event]:
        self._begin()
        with self._busy:
            for name, content in uploads:
                self.actions.sandbox.put(name, content)
            text = uploaded_text([(name, len(content)) for name, content in uploads], text)
            yield from self._answer(self._messages, Message(Role.USER, text))

    async def asend(self, text: str, files: Sequence[Upload] = ()) -> AsyncIterator[Event]:
        """`send` for asyncio: the model, tools and code run in a thread. Cancelling it stops the turn in order."""
        events = self.send(text, files)
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

    def regenerate(self) -> Iterator[Event]:
        """Have the last message answered again; the events of the new answer, which takes the place of the old one.

        The old answer stays if nothing new is said. What tools and code have changed in the world stays changed.

        Raises:
            SessionError: nothing was said yet; also as for `send`.
        """
        start = self._last_turn()
        return self._regenerate(start)

    def _regenerate(self, start: int) -> Iterator[Event]:
        self._begin()
        with self._busy:
            yield from self._answer(self._messages[:start], self._messages[start])

    def stop(self) -> None:
        """End the turn that is going on, from any thread; what was said so far stays. Does nothing between turns."""
        self._stop.set()

    def undo(self) -> str:
        """Take back the last message and everything that answered it; returns its text.

        Raises:
            SessionError: nothing was said yet, or the session is in the midst of a turn.
        """
        self._begin()
        with self._busy:
            start = self._last_turn()
            question = self._messages[start]
            del self._messages[start:]
            self.window.left_out = 0
        return question.content

    # state

    @property
    def history(self) -> list[Message]:
        """All messages of finished turns, the system message first."""
        return [*([self._system] if self._system else []), *self._messages]

    @property
    def sandbox(self) -> Any:
        """The code interpreter; None where there is none."""
        return self.actions.sandbox

    def save(self, path: str | PathLike[str]) -> None:
        """Write the history to a JSON file, which `chatglm chat --load` reads too.

        Raises:
            ConversationError: the path holds something else, or cannot be written.
        """
        save_file(Path(path), self.history, vocabulary_of(self.tokenizer))

    @classmethod
    def load(cls, path: str | PathLike[str], engine: Any, tokenizer: Any, **options: Any) -> "Session":
        """A session that goes on with a saved history; the options are those of the class.

        The system prompt is the saved one unless another is given. Token ids of another vocabulary are dropped and
        their text encoded anew. Variables of the code interpreter are not saved.

        Raises:
            ConversationError: the file cannot be read, or holds no conversation.
            SessionError: the conversation offers tools that were not given.
        """
        messages, _ = load_file(Path(path)).open(vocabulary_of(tokenizer))
        saved = messages[0] if messages and messages[0].role is Role.SYSTEM else None
        tools = options.get("tools", ())
        options["tools"] = toolbox = tools if isinstance(tools, ToolBox) else ToolBox(tools)
        if saved is not None:
            check_tools(saved, toolbox)
        session = cls(engine, tokenizer, **options)
        session._messages = list(messages[1:] if saved else messages)
        if saved is not None and options.get("system") is None:
            session._system = reopened(saved, toolbox.schemas(), session.sandbox is not None)
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
        other._system, other._messages = self._system, list(self._messages)
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
        self._closed = True
        self.stop()
        if self._owns_sandbox:
            self.sandbox.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # one turn

    def _begin(self) -> None:
        """Before `with self._busy`: a lock taken by hand would stay taken after a Ctrl-C in the wrong moment."""
        if self._closed:
            raise SessionError("the session is closed; open another one, or load() what save() has written")
        if self._busy.locked():
            raise SessionError("the session is in the midst of a turn; read its events to the end, or close() them")
        self._stop.clear()

    def _answer(self, before: Sequence[Message], question: Message) -> Iterator[Event]:
        """Has the question answered; whatever happens, the history then ends with a whole turn."""
        asked = [*before, question]
        system = [self._system] if self._system else []
        turn = ActingTurn(
            self.engine, [*system, *asked], self.window, self.actions, self.limits, self._seeded(), self._stop.is_set
        )
        try:
            yield from turn
        finally:
            self._answers += turn.rounds + 1
            if not turn.is_empty:
                self._messages = [*asked, *turn.messages()]

    def _seeded(self) -> SamplingParams:
        """Every answer has a seed of its own, so that `regenerate` says something else."""
        seed = self.params.seed
        return self.params if seed is None else replace(self.params, seed=(seed + self._answers) % 2**63)

    def _last_turn(self) -> int:
        asked = [index for index, message in enumerate(self._messages) if message.role is Role.USER]
        if not asked:
            raise SessionError("nothing was said yet, so there is no turn to take back or to answer again")
        return asked[-1]
