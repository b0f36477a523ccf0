"""The interactive program: reads a line, does what it means, and never loses what was said."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from chatglm.chat.saved import load_file
from chatglm.errors import ChatGLMError, ContextFullError, SessionError
from chatglm.terminal.commands import COMMANDS, Do, Unknown, read_line
from chatglm.terminal.keyboard import typing_hidden
from chatglm.terminal.screen import Screen, printable
from chatglm.terminal.turn import describe, interrupts_ignored, show_turn, statistics_line

if TYPE_CHECKING:
    from chatglm.agent.events import TurnDone
    from chatglm.agent.remote import RemoteSession
    from chatglm.agent.session import Session
    from chatglm.terminal.editor import Editor
    from chatglm.terminal.workbench import Workbench


class Chat:
    """One interactive chat: a screen, an editor and commands over one session.

    `run` is the loop; `handle` does what one line asks for.
    """

    def __init__(
        self,
        session: Session | RemoteSession,
        screen: Screen,
        bench: Workbench,
        *,
        statistics: TextIO | None = None,
        tracebacks: bool = False,
    ) -> None:
        self.session: Any = session
        self.screen, self.bench = screen, bench
        self.statistics, self.tracebacks = statistics, tracebacks
        self.draft = ""  # what stands on the next input line already
        self.leaving = False
        self._actions: dict[str, Callable[[str], None]] = {
            "/clear": self._clear,
            "/system": self._system,
            "/save": self._save,
            "/load": self._load,
            "/retry": self._retry,
            "/undo": self._undo,
            "/upload": self._upload,
            "/files": self._files,
            "/get": self._get,
            "/tokens": self._tokens,
            "/help": lambda _: screen.say("help"),
            "/exit": self._exit,
        }

    def run(self, editor: Editor) -> None:
        """Read and answer until the user leaves: /exit, stop, Ctrl-D, or Ctrl-C twice on an empty line."""
        interrupted = False
        while not self.leaving:
            try:
                line, interrupted = editor.read(self.draft), False
                self.draft = ""
                with interrupts_ignored():
                    self.handle(line)
            except KeyboardInterrupt:
                if interrupted:
                    return
                interrupted, self.draft = True, ""
                self.screen.say("leave_hint")
            except EOFError:
                return

    def handle(self, line: str) -> None:
        """Do what one input line means."""
        meaning = read_line(line)
        if meaning is None:
            return
        if isinstance(meaning, Unknown):
            self._unknown(meaning, line)
        elif isinstance(meaning, Do):
            self._do(meaning, line)
        else:
            text = meaning.text
            self._turn(lambda: self.session.send(text), line)

    # commands

    def _do(self, command: Do, line: str) -> None:
        wants = COMMANDS[command.command]
        if command.argument and not wants:
            self.screen.say("no_argument", command=command.command, argument=command.argument)
        elif wants == "FILE" and not command.argument:
            self.screen.say("file_missing", command=command.command)
        else:
            try:
                self._actions[command.command](command.argument)
            except ChatGLMError as error:
                self._show_error(error)
                self.screen.note(str(error))
                self.draft = line

    def _unknown(self, unknown: Unknown, line: str) -> None:
        near = self.screen.words("did_you_mean", command=unknown.suggestion) if unknown.suggestion else ""
        self.screen.say("unknown", command=unknown.command, suggestion=near)
        self.draft = line

    def _clear(self, _: str) -> None:
        self.session.clear()
        self.screen.say("cleared")

    def _system(self, text: str) -> None:
        if text:
            self.session.set_system(None if text == "-" else text)
            self.screen.say("system_removed" if text == "-" else "system_set")
        elif self.session.system:
            self.screen.say("system_is", text=self.session.system)
        else:
            self.screen.say("system_none")

    def _save(self, name: str) -> None:
        path = Path(name).expanduser()
        self.session.save(path)
        self.screen.say("saved", count=len(self.session.history), path=os.fspath(path))

    def _load(self, name: str) -> None:
        path = Path(name).expanduser()
        same_vocabulary = self.session.reopen(load_file(path), other_tools=True)
        self.screen.say("loaded", count=len(self.session.history), path=os.fspath(path))
        if not same_vocabulary:
            self.screen.say("other_vocabulary")

    def _retry(self, _: str) -> None:
        try:
            events = self.session.regenerate()
        except SessionError:
            self.screen.say("nothing_to_retry")
        else:
            self._turn(lambda: events, "")

    def _undo(self, _: str) -> None:
        try:
            self.screen.say("undone", text=self.session.undo())
        except SessionError:
            self.screen.say("nothing_to_undo")

    def _upload(self, path: str) -> None:
        if self._has_code("/upload"):
            name, size = self.session.upload(os.path.expanduser(path))
            self.screen.say("uploaded", name=printable(name), size=size)

    def _files(self, _: str) -> None:
        if self._has_code("/files"):
            lines = [f"{printable(file.name)}  {file.size}" for file in self.session.sandbox.list()]
            self.screen.note("\n".join(lines) or self.screen.words("no_files"))

    def _get(self, name: str) -> None:
        if self._has_code("/get"):
            self.screen.say("fetched", name=printable(name), path=self.bench.fetch(name))

    def _has_code(self, command: str) -> bool:
        if self.session.sandbox is None:
            self.screen.say("needs_code", command=command)
        return self.session.sandbox is not None

    def _tokens(self, _: str) -> None:
        session = self.session
        count = len(session.history)
        self.screen.say("tokens", tokens=session.count_tokens(), limit=session.context_length or "?", count=count)

    def _exit(self, _: str) -> None:
        self.leaving = True

    # answers

    def _turn(self, begin: Callable[[], Iterator[Any]], line: str) -> None:
        """Have a turn taken. One that leaves no trace gives `line` back to be edited."""
        before, done, error = self.session.history, None, None
        try:
            events = begin()
            with typing_hidden():
                done = show_turn(events, self.session, self.screen)
        except (KeyboardInterrupt, BrokenPipeError):
            raise
        except Exception as caught:  # whatever the model raises, the conversation goes on
            error = caught
        kept = self.session.history != before if done is None else done.kept
        if not kept:
            self.draft = line
        if error is not None:
            self._explain_error(error, kept)
        else:
            self._explain(done, kept)
        if self.statistics is not None and done is not None:
            self.statistics.write(statistics_line(done, self.screen.words) + "\n")

    def _explain_error(self, error: Exception, kept: bool) -> None:
        if isinstance(error, ContextFullError) and not kept:
            self.screen.say("too_long", tokens=error.tokens, limit=error.limit)
            return
        self._show_error(error)
        self.screen.say("failed_midway" if kept else "failed", error=describe(error))

    def _explain(self, done: TurnDone | None, kept: bool) -> None:
        """Say what is not plain from the answer itself."""
        reason = "abort" if done is None else done.reason
        if reason == "abort":
            self.screen.say("stopped" if kept else "stopped_at_once")
        elif not kept:
            self.screen.say("said_nothing")
        elif reason == "length":
            self.screen.say("limit_reached")
        elif reason != "stop":
            self.screen.say("turn_over", reason=self.screen.words.ending(reason))

    def _show_error(self, error: Exception) -> None:
        if self.tracebacks:
            self.screen.note("".join(traceback.format_exception(error)).rstrip())
