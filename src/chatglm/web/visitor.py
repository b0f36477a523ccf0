"""One visitor: the conversation that is open, its session and interpreter, and the turn that is being taken."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chatglm.agent.prompts import own_text
from chatglm.agent.uploads import check_upload_name
from chatglm.chat.message import Role
from chatglm.chat.saved import SavedConversation, load_file
from chatglm.errors import ChatGLMError, ConversationError, SessionError, UsageError
from chatglm.web.answering import Local, Mode, Remote
from chatglm.web.by_hand import ByHand
from chatglm.web.conversations import Card, Conversations
from chatglm.web.running import RunningTurn
from chatglm.web.settings import Settings
from chatglm.web.told import Told, told_by
from chatglm.web.view import Part, Picture, Step, View

MOST_MESSAGE = 1_000_000  # characters
MOST_FILES = 10  # of one message
MOST_FILE_BYTES = 50 * 1024 * 1024
RECENT_SECONDS = 3600.0
LEAVE_SECONDS = 10.0  # that a turn has to end after it was stopped
_log = logging.getLogger(__name__)


class Visitor:
    """Everything of one visitor. What pages show of it is read here, never taken from a browser.

    Args:
        answers: where answers come from.
        kept: the conversations on disk.
    """

    def __init__(self, answers: Local | Remote, kept: Conversations) -> None:
        self.answers, self.kept = answers, kept
        self.by_hand = ByHand()
        self.mode: Mode = "chat"
        self.system: str | None = None
        self.conversation: str | None = None  # its name on disk; None: nothing was said yet
        self.told: list[Told] = []
        self.turn: RunningTurn | None = None
        self.given_back = ""  # a message that was not answered, for the input line
        self._saved: SavedConversation | None = None  # what the next session goes on with
        self._session: Any = None
        self._sandbox: Any = None
        self._closed, self._lock = False, threading.RLock()

    # talking

    @property
    def is_busy(self) -> bool:
        return self.turn is not None and not self.turn.is_over

    @property
    def asking(self) -> Step | None:
        """The step at which the turn waits for the visitor: for leave to make a call, or for its result."""
        return self.turn.asking if self.turn is not None else None

    def send(self, text: str, files: Sequence[tuple[str, bytes]] = (), settings: Settings | None = None) -> RunningTurn:
        """Says something; the turn goes on by itself.

        Raises:
            ChatGLMError: in the midst of a turn, an empty or too long message, files that cannot be taken, ...
        """
        with self._lock:
            self._check_free()
            self._check_message(text, files)
            session = self._opened(files)
            events = self.answers.send(session, text, files, settings or Settings())
            told = Told(text, tuple(name for name, _ in files))
            self.told.append(told)
            return self._begin(told, events)

    def retry(self, settings: Settings | None = None) -> RunningTurn:
        """Has the last message answered again.

        Raises:
            ChatGLMError: as `send`; nothing was said yet.
        """
        with self._lock:
            self._check_free()
            if not self.told:
                raise SessionError("nothing was said yet, so there is no answer to try again")
            events = self.answers.again(self._opened(), settings or Settings())
            return self._begin(Told(self.told[-1].text, self.told[-1].files), events)

    def edit(self, number: int, text: str, settings: Settings | None = None) -> RunningTurn:
        """Takes back the turn of that number, and all after it, and says something else instead.

        Raises:
            ChatGLMError: as `send`; there is no such turn.
        """
        with self._lock:
            self._check_free()
            self._check_message(text, ())
            if not 0 <= number < len(self.told):
                raise UsageError(f"there is no message {number}; there are {len(self.told)}")
            while len(self.told) > number:
                self.undo()
            return self.send(text, (), settings)

    def undo(self) -> str:
        """Takes back the last message and everything that answered it; returns its text.

        Raises:
            ChatGLMError: nothing was said yet, or in the midst of a turn.
        """
        with self._lock:
            self._check_free()
            if not self.told:
                raise SessionError("nothing was said yet, so there is nothing to take back")
            self._opened().undo()
            told = self.told.pop()
            self._keep()
            return told.text

    def stop(self) -> None:
        """Ends the turn that is going on; what was said stays."""
        if self._session is not None:
            self._session.stop()
        self.by_hand.release()

    def consent(self, allowed: bool) -> None:
        """Says whether the tool may be used that the turn asks about.

        Raises:
            SessionError: it asks about none.
        """
        step = self._asked("consent")
        self._session.answer(step.id, allowed)
        if self.turn is not None:
            self.turn.answered()

    def answer(self, result: str) -> None:
        """Gives the result of a tool that is carried out by hand.

        Raises:
            SessionError: none waits for it. UsageError: it is too long.
        """
        self._asked("answer")
        if len(result) > MOST_MESSAGE:
            raise UsageError(f"the result has {len(result)} characters; at most {MOST_MESSAGE} are taken")
        self.by_hand.answer(result)
        if self.turn is not None:
            self.turn.answered()

    # the conversation

    def new(self, mode: Mode | None = None) -> None:
        """Begins another conversation; this one is kept.

        Raises:
            ChatGLMError: in the midst of a turn, or a mode there is not.
        """
        with self._lock:
            self._check_free()
            if mode is not None and mode not in self.answers.modes:
                raise UsageError(f"the mode {mode!r:.20} is not there; there are {', '.join(self.answers.modes)}")
            self._end_session()
            self.mode = mode or self.mode
            self.conversation, self.told, self.turn, self._saved = None, [], None, None

    def clear(self) -> None:
        """Forgets the open conversation, on disk too; the interpreter keeps what it holds."""
        with self._lock:
            self._check_free()
            if self._session is not None:
                self._session.clear()
            self._forget()

    def open(self, name: str) -> None:
        """Goes on with a conversation.

        Raises:
            ChatGLMError: in the midst of a turn; there is none of that name.
        """
        with self._lock:
            self._check_free()
            card, saved, told = self.kept.load(name)
            mode = next((mode for mode in self.answers.modes if mode == card.mode), self.answers.modes[0])
            self.new(mode)
            self.conversation, self.told = name, told
            self._go_on(saved)

    def resume(self) -> None:
        """Opens the last conversation, if it is of a little while ago: the server may have been started again.

        One that cannot be opened leaves a new one, for this is what every visit begins with; whoever opens it is told.
        """
        try:
            recent = [card for card in self.conversations()[:1] if time.time() - card.changed < RECENT_SECONDS]
            for card in recent:
                self.open(card.id)
        except ConversationError as error:
            _log.warning("a conversation could not be opened again: %s", error)

    def delete(self, name: str) -> None:
        """Deletes a conversation; the open one is then a new one.

        Raises:
            SessionError: in the midst of a turn.
        """
        with self._lock:
            if name == self.conversation:
                self.new()
            self.kept.delete(name)

    def load(self, path: Path) -> None:
        """Begins a conversation with what a file holds that any chat has saved.

        Raises:
            ChatGLMError: in the midst of a turn; the file holds none.
        """
        try:
            saved = load_file(path)
        except ChatGLMError as error:  # without the path, in which the server's folders stand
            raise ConversationError(str(error).replace(str(path), Path(path).name)) from None
        with self._lock:
            self.new()
            self.told = told_by(saved.messages)
            self._go_on(saved)
            self._opened()
            self._keep()

    def conversations(self) -> list[Card]:
        return self.kept.cards()

    def set_system(self, text: str | None) -> None:
        """Sets the system prompt of this conversation and those that begin.

        Raises:
            ChatGLMError: in the midst of a turn; a model without system prompts.
        """
        with self._lock:
            if (text or None) == self.system:
                return
            self._check_free()
            if self._session is not None:
                self._session.set_system(text or None)
            self.system = text or None

    def set_tools(self, text: str) -> None:
        """Reads the tools of the editor.

        Raises:
            ChatGLMError: in the midst of a turn; the text describes none.
        """
        with self._lock:
            self._check_free()
            self.by_hand.read(text)
            if self._session is not None and self.mode == "tool":
                self._put_aside()

    # what a page reads

    def parts(self, number: int) -> Sequence[Part]:
        """What there is to see of a turn; nothing of one that was taken back a moment ago."""
        turn, told = self.turn, next(iter(self.told[number : number + 1]), None)
        if told is None:
            return ()
        return turn.parts() if turn is not None and turn.told is told and not turn.is_over else told.view.parts

    def picture(self, turn: int, number: int) -> Picture:
        """A picture of a turn.

        Raises:
            SessionError: there is none.
        """
        if 0 <= turn < len(self.told):
            for part in self.parts(turn):
                if isinstance(part, Picture) and part.number == number:
                    return part
        raise SessionError(f"there is no picture {number} in turn {turn}")

    def file(self, name: str) -> bytes:
        """A file of the interpreter.

        Raises:
            ChatGLMError: there is none.
        """
        if self._sandbox is None:
            raise SessionError("the interpreter of this conversation has ended, and its files are gone")
        content: bytes = self._sandbox.get(name)
        return content

    def tokens(self) -> tuple[int, int]:
        """How many the conversation takes, of how many; 0 where nobody knows."""
        session = self._session
        return (0, 0) if session is None or self.is_busy else (session.count_tokens(), session.context_length)

    def close(self) -> None:
        """Ends the session and its interpreter; the conversation can be opened again."""
        with self._lock:
            self._closed = True  # first: nothing begins any more while this ends
        self.stop()
        if self.turn is not None and not self.turn.is_over:
            if self._session is not None:
                self._session.close()
            self.turn.wait(LEAVE_SECONDS)
        with self._lock:
            self._end_session()

    # inside

    def _check_free(self) -> None:
        if self._closed:
            raise SessionError("this visit has ended; load the page again")
        if self.is_busy:
            raise SessionError("an answer is being written; wait for its end, or stop it")

    def _check_message(self, text: str, files: Sequence[tuple[str, bytes]]) -> None:
        if not text.strip() and not files:
            raise UsageError("the message is empty; write something")
        if len(text) > MOST_MESSAGE or len(files) > MOST_FILES:
            raise UsageError(
                f"the message has {len(text)} characters and {len(files)} files; it may have {MOST_MESSAGE} "
                f"and {MOST_FILES}"
            )
        if files and self.mode != "code":
            raise UsageError("files are for the code interpreter; choose that mode first")
        for name, content in files:
            check_upload_name(name)
            if len(content) > MOST_FILE_BYTES:
                raise UsageError(f"the file {name!r} has {len(content)} bytes; it may have {MOST_FILE_BYTES}")

    def _asked(self, what: str) -> Step:
        step = self.asking
        if step is None or step.asks != what:
            raise SessionError("nothing waits for this answer any more")
        return step

    def _begin(self, told: Told, events: Any) -> RunningTurn:
        self.given_back = ""
        self.by_hand.forget()
        view = View(self.by_hand.names if self.mode == "tool" else ())
        before = self.told[-1]
        if before is not told:
            self.told[-1] = told
        self.turn = turn = RunningTurn(told, events, view, lambda turn: self._over(turn, before))
        turn.begin()
        return turn

    def _over(self, turn: RunningTurn, before: Told) -> None:
        """Keeps what was said, in the turn's thread; what has no answer leaves no trace, and its text is given back."""
        self.by_hand.release()
        kept = turn.done.kept if turn.done is not None else any(turn.view.parts)
        if not kept:
            again = before is not turn.told
            self.told = [*self.told[:-1], *([before] if again else [])]
            self.given_back = "" if again else turn.told.text
        self._keep()

    def _keep(self) -> None:
        if not self.told:
            self._forget()
        elif self._session is not None:
            self.conversation = self.conversation or self.kept.new_id()
            self.kept.save(self.conversation, self._session, self.mode, self.told)

    def _forget(self) -> None:
        if self.conversation is not None:
            self.kept.delete(self.conversation)
        self.conversation, self.told, self._saved = None, [], None

    def _opened(self, files: Sequence[Any] = ()) -> Any:
        """The session of this conversation, opened when it is first needed."""
        if self._session is None:
            if self.mode == "code" and self._sandbox is None:
                self._sandbox = self.answers.sandbox()
            session = self.answers.session(self.mode, self.system, self.by_hand.tools, self._sandbox)
            if self._saved is not None:
                session.reopen(self._saved, other_tools=True)
                if self.system:
                    session.set_system(self.system)
            self._session, self._saved = session, None
        return self._session

    def _go_on(self, saved: SavedConversation) -> None:
        """The next session goes on with a saved conversation, its system prompt included."""
        first = saved.messages[0] if saved.messages else None
        self._saved = saved
        self.system = own_text(first) or None if first is not None and first.role is Role.SYSTEM else None

    def _put_aside(self) -> None:
        """Ends the session, and lets the next one go on with what was said."""
        if self.conversation is not None:
            self._saved = self.kept.load(self.conversation)[1]
        self._session.close()
        self._session = None

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None
