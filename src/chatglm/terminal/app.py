"""The interactive program: reads a line, does what it means, and never loses what was said."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from chatglm.chat.saved import load_file
from chatglm.errors import ChatGLMError, ContextFullError, SessionError
from chatglm.terminal.commands import COMMANDS, Do, Unknown, read_line
from chatglm.terminal.keyboard import typing_hidden
from chatglm.terminal.screen import Screen
from chatglm.terminal.settings import Settings
from chatglm.terminal.theme import THEMES, theme_of
from chatglm.terminal.turn import describe, interrupts_ignored, show_turn, statistics_line
from chatglm.words import printable

if TYPE_CHECKING:
    from chatglm.agent.events import TurnDone
    from chatglm.agent.remote import RemoteSession
    from chatglm.agent.session import Session
    from chatglm.terminal.editor import Editor
    from chatglm.terminal.workbench import Workbench

# what a command wants -> what is said where it is missing
MISSING = {"FILE": "file_missing", "FOLDER": "folder_missing", "NAME": "model_missing"}
LONG, LONG_LINES = 500, 8  # characters and lines of a message that is not put back onto the input line


class Chat:
    """One interactive chat: a screen, an editor and commands over one session.

    `run` is the loop; `handle` does what one line asks for.

    Args:
        session: the conversation.
        screen: where it is shown.
        bench: what it acts with.
        statistics: where the numbers of each answer go.
        tracebacks: whether errors are shown whole.
        reopened: gives the conversation it is given with another model or adapter, and the model's name.
    """

    def __init__(
        self,
        session: Session | RemoteSession,
        screen: Screen,
        bench: Workbench,
        *,
        statistics: TextIO | None = None,
        tracebacks: bool = False,
        reopened: Callable[..., tuple[Session | RemoteSession, str]] | None = None,
    ) -> None:
        self.session: Any = session
        self.screen, self.bench = screen, bench
        self.statistics, self.tracebacks, self._reopened = statistics, tracebacks, reopened
        self._own_files: set[Path] = set()  # written or read here, or said twice: they may be written over
        self.draft = ""  # what stands on the next input line already
        self._where = "on_line"  # what was given back last
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
            "/tools": self._tools,
            "/code": self._code,
            "/theme": self._theme,
            "/set": self._set,
            "/model": lambda name: self._reopen(model=name, adapter=None),
            "/adapter": lambda folder: self._reopen(adapter=None if folder == "-" else folder),
            "/tokens": self._tokens,
            "/cut": self._cut,
            "/stats": self._stats,
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
            self._unknown(meaning)
        elif isinstance(meaning, Do):
            self._do(meaning)
        else:
            text = meaning.text
            self._turn(lambda: self.session.send(text), line)

    # commands

    def _do(self, command: Do) -> None:
        wants = COMMANDS[command.command]
        if command.argument and not wants:
            self.screen.say("no_argument", command=command.command, argument=command.argument)
        elif wants in MISSING and not command.argument:
            self.screen.say(MISSING[wants], command=command.command)
        else:
            try:
                self._actions[command.command](command.argument)
            except ChatGLMError as error:
                self._show_error(error)
                self.screen.note(self.screen.words.error(str(error)))

    def _unknown(self, unknown: Unknown) -> None:
        near = self.screen.words("did_you_mean", command=unknown.suggestion) if unknown.suggestion else ""
        self.screen.say("unknown", command=unknown.command, suggestion=near)

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
        if path.is_dir():
            self.screen.say("is_folder", path=os.fspath(path))
            return
        if path.exists() and path.resolve() not in self._own_files:
            self._own_files.add(path.resolve())
            self.screen.say("exists", path=os.fspath(path))
            return
        self.session.save(path)
        self._own_files.add(path.resolve())
        self.screen.say("saved", count=len(self.session.history), path=os.fspath(path))

    def _load(self, name: str) -> None:
        path = Path(name).expanduser()
        same_vocabulary = self.session.reopen(load_file(path), other_tools=True)
        self._own_files.add(path.resolve())
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
        if self.session.sandbox is None and hasattr(self.session, "options"):
            self.screen.say("acts_elsewhere")
        elif self.session.sandbox is None:
            self.screen.say("needs_code", command=command)
        return self.session.sandbox is not None

    def _tools(self, _: str) -> None:
        lines = [f"{printable(tool.name)}  {printable(tool.description)}" for tool in self.bench.tools]
        lines += [self.screen.words("has_code")] if self.session.sandbox is not None else []
        none = "acts_elsewhere" if hasattr(self.session, "options") else "no_tools"
        self.screen.note("\n".join(lines) or self.screen.words(none))

    def _code(self, _: str) -> None:
        if hasattr(self.session, "options"):
            self.screen.say("acts_elsewhere")
            return
        if self.session.sandbox is None:
            self.bench.open_code()
            try:
                self.session.set_sandbox(self.bench.sandbox)
            except ChatGLMError:
                self.bench.close_code()
                raise
        self.screen.say("has_code")

    def _theme(self, name: str) -> None:
        if name:
            self.screen.wear(theme_of(name))
        self.screen.say("theme_is", name=self.screen.theme.name, all=", ".join(THEMES))

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        settings = Settings(self.session)
        if text:
            settings.change(name, value.strip())
        self.screen.note("\n".join(f"{name}  {value}" for name, value in settings.shown().items()))

    def _reopen(self, **changed: str | None) -> None:
        """The same conversation with another model; what cannot be loaded leaves everything as it is."""
        if self._reopened is None:
            self.screen.say("elsewhere")
            return
        name = next(filter(None, changed.values()), None)
        self.screen.say("loading_plain") if name is None else self.screen.say("loading", model=name)
        session, model = self._reopened(self.session, **changed)
        self.session.close()
        self.session = session
        self.screen.say("changed", model=model)

    def _cut(self, _: str) -> None:
        if getattr(self.session, "when_full", "cut") == "cut":
            self.screen.say("cuts_already")
        else:
            self.session.when_full = "cut"
            self.screen.say("cuts")

    def _stats(self, _: str) -> None:
        self.statistics = sys.stderr if self.statistics is None else None
        self.screen.say("statistics_on" if self.statistics is not None else "statistics_off")

    def _tokens(self, _: str) -> None:
        session, tokens = self.session, self.session.count_tokens()
        count = len(session.history) if tokens else 0  # a system message alone is not read yet
        self.screen.say("tokens", tokens=tokens, limit=session.context_length or "?", count=count)

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
            self._give_back(line)
        if error is not None:
            self._explain_error(error, kept)
        else:
            self._explain(done, kept)
        if self.statistics is not None and done is not None:
            self.statistics.write(statistics_line(done, self.screen.words) + "\n")

    def _give_back(self, line: str) -> None:
        """Onto the input line; what is said about it must stay on the screen, so a long one is only a key away."""
        self._where = "in_history" if len(line) > LONG or line.count("\n") > LONG_LINES else "on_line"
        self.draft = line if self._where == "on_line" else ""

    def _explain_error(self, error: Exception, kept: bool) -> None:
        if isinstance(error, ContextFullError) and not kept:
            self.screen.say("too_long", tokens=error.tokens, limit=error.limit, where=self._place())
            if self.session.history and getattr(self.session, "when_full", "cut") == "refuse":
                self.screen.say("may_cut")
            return
        self._show_error(error)
        told = self.screen.words.error(describe(error))
        self.screen.say("failed_midway" if kept else "failed", error=told, where=self._place())

    def _place(self) -> str:
        """Where a message is that was given back."""
        return self.screen.words(self._where)

    def _explain(self, done: TurnDone | None, kept: bool) -> None:
        """Say what is not plain from the answer itself."""
        reason = "abort" if done is None else done.reason
        if reason == "abort":
            self.screen.say("stopped" if kept else "stopped_at_once", where=self._place())
        elif not kept:
            self.screen.say("said_nothing", where=self._place())
        elif reason == "length":
            self.screen.say("limit_reached")
        elif reason != "stop":
            self.screen.say("turn_over", reason=self.screen.words.ending(reason))

    def _show_error(self, error: Exception) -> None:
        if self.tracebacks:
            self.screen.note("".join(traceback.format_exception(error)).rstrip())
