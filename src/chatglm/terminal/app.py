"""The interactive program: reads a line, does what it means, and never loses what was said."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from chatglm.chat.saved import load_file
from chatglm.errors import ChatGLMError
from chatglm.terminal.commands import COMMANDS, Do, Unknown, read_line
from chatglm.terminal.conversation import Conversation
from chatglm.terminal.keyboard import typing_hidden
from chatglm.terminal.language import Texts
from chatglm.terminal.responder import Responder
from chatglm.terminal.sampling import LARGEST_SEED, Sampling
from chatglm.terminal.screen import Screen, printable
from chatglm.terminal.turn import Timing, Turn, interrupts_ignored, take_turn

if TYPE_CHECKING:
    from chatglm.terminal.editor import Editor
    from chatglm.terminal.workbench import Workbench


class Chat:
    """One interactive chat. `run` is the loop; `handle` does what one line asks for."""

    def __init__(
        self,
        responder: Responder,
        conversation: Conversation,
        screen: Screen,
        texts: Texts,
        *,
        sampling: Sampling,
        seed: int | None = None,
        statistics: TextIO | None = None,
        tracebacks: bool = False,
        bench: Workbench | None = None,
    ) -> None:
        self.responder, self.conversation = responder, conversation
        self.screen, self.texts = screen, texts
        self.sampling, self.seed = sampling, seed
        self.statistics, self.tracebacks = statistics, tracebacks
        self.bench = bench
        self.draft = ""  # what stands on the next input line already
        self.leaving = False
        self._answers = 0
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
            "/help": self._help,
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
                self.screen.note(self.texts.leave_hint)
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
            self._answer(meaning.text, line)

    # commands

    def _do(self, command: Do, line: str) -> None:
        wants = COMMANDS[command.command]
        if command.argument and not wants:
            self._note("no_argument", command=command.command, argument=command.argument)
        elif wants == "FILE" and not command.argument:
            self._note("file_missing", command=command.command)
        else:
            try:
                self._actions[command.command](command.argument)
            except ChatGLMError as error:
                self._show_error(error)
                self.screen.note(str(error))
                self.draft = line

    def _unknown(self, unknown: Unknown, line: str) -> None:
        near = self.texts.did_you_mean.format(command=unknown.suggestion) if unknown.suggestion else ""
        self._note("unknown", command=unknown.command, suggestion=near)
        self.draft = line

    def _clear(self, _: str) -> None:
        self.conversation.clear()
        self._note("cleared")

    def _system(self, text: str) -> None:
        if text:
            self.conversation.set_system("" if text == "-" else text)
            self._note("system_removed" if text == "-" else "system_set")
        elif self.conversation.system:
            self._note("system_is", text=self.conversation.system)
        else:
            self._note("system_none")

    def _save(self, name: str) -> None:
        path = Path(name).expanduser()
        self.conversation.save(path, self.responder.vocabulary)
        self._note("saved", count=len(self.conversation), path=os.fspath(path))

    def _load(self, name: str) -> None:
        path = Path(name).expanduser()
        self.conversation, same_vocabulary = Conversation.of(load_file(path), self.responder.vocabulary)
        self._note("loaded", count=len(self.conversation), path=os.fspath(path))
        if not same_vocabulary:
            self._note("other_vocabulary")

    def _retry(self, _: str) -> None:
        last = self.conversation.take_back()
        if last is None:
            self._note("nothing_to_retry")
            return
        question, answer = last
        if not self._ask(question, ""):
            # The new attempt gave nothing: the old answer stands.
            self.conversation.ask(question)
            self.conversation.answer(answer)

    def _undo(self, _: str) -> None:
        last = self.conversation.take_back()
        if last is None:
            self._note("nothing_to_undo")
        else:
            self._note("undone", text=last[0])

    def _upload(self, path: str) -> None:
        if bench := self._with_code("/upload"):
            name, size = bench.upload(os.path.expanduser(path))
            self._note("uploaded", name=printable(name), size=size)

    def _files(self, _: str) -> None:
        if bench := self._with_code("/files"):
            found = bench.sandbox.list()
            lines = [f"{printable(file.name)}  {file.size}" for file in found]
            self.screen.note("\n".join(lines) or self.texts.no_files)

    def _get(self, name: str) -> None:
        if bench := self._with_code("/get"):
            self._note("fetched", name=printable(name), path=bench.fetch(name))

    def _with_code(self, command: str) -> Workbench | None:
        """The workbench, if there is an interpreter on it."""
        if self.bench is not None and self.bench.sandbox is not None:
            return self.bench
        self._note("needs_code", command=command)
        return None

    def _tokens(self, _: str) -> None:
        count = len(self.conversation)
        tokens = self.responder.count_tokens(self.conversation.messages) if count else 0
        self._note("tokens", tokens=tokens, limit=self._limit(), count=count)

    def _help(self, _: str) -> None:
        self._note("help")

    def _exit(self, _: str) -> None:
        self.leaving = True

    # answers

    def _answer(self, text: str, line: str) -> bool:
        """Ask the model and tell it what was uploaded; see `_ask`."""
        if self.bench is None:
            return self._ask(text, line)
        answered = self._ask(self.bench.announced(text), line)
        if answered:
            self.bench.uploaded = []
        return answered

    def _ask(self, text: str, line: str) -> bool:
        """Ask the model; whether there was an answer. If not, the conversation is as before and `line` to be edited."""
        self.conversation.ask(text)
        turn = self._turn()
        if turn is None or turn.is_empty:
            self.conversation.take_back()
            self.draft = line
            return False
        self.conversation.answer(turn.messages)
        return True

    def _turn(self) -> Turn | None:
        try:
            tokens = self.responder.count_tokens(self.conversation.messages)
        except ChatGLMError as error:
            self._show_error(error)
            self._note("failed", error=error)
            return None
        if tokens >= self._limit():
            self._note("too_long", tokens=tokens, limit=self._limit())
            return None
        messages = self.conversation.messages
        with typing_hidden():
            turn = take_turn(self.responder, messages, self.sampling, self.screen, seed=self._next_seed())
        self._explain(turn)
        return turn

    def _explain(self, turn: Turn) -> None:
        """Say what is not plain from the answer itself."""
        if turn.error is not None:
            self._show_error(turn.error)
            self._note("failed" if turn.is_empty else "failed_midway", error=describe(turn.error))
        elif turn.reason == "abort":
            self._note("stopped" if not turn.is_empty else "stopped_at_once")
        elif turn.is_empty:
            self._note("said_nothing")
        elif turn.reason == "length":
            self._note("limit_reached")
        elif turn.reason != "stop":
            self._note("turn_over", reason=self.texts.word(turn.reason))
        elif turn.messages and turn.messages[-1].metadata:
            self._note("tool_wanted")
        if self.statistics is not None:
            self.statistics.write(statistics_line(turn.timing, self.texts) + "\n")

    def _limit(self) -> int:
        return min(self.responder.context_length, self.sampling.max_length or self.responder.context_length)

    def _next_seed(self) -> int | None:
        """Every answer has its own, so that /retry says something else and the whole chat can be repeated."""
        self._answers += 1
        return None if self.seed is None else (self.seed + self._answers - 1) % (LARGEST_SEED + 1)

    def _note(self, name: str, /, **values: object) -> None:
        self.screen.note(getattr(self.texts, name).format(**values))

    def _show_error(self, error: Exception) -> None:
        if self.tracebacks:
            self.screen.note("".join(traceback.format_exception(error)).rstrip())


def describe(error: Exception) -> str:
    """One line: our own errors explain themselves, of others the kind helps to understand the text."""
    return str(error) if isinstance(error, ChatGLMError) else f"{type(error).__name__}: {error}"


def statistics_line(timing: Timing, texts: Texts) -> str:
    """What --stats writes."""
    return texts.statistics.format(
        prompt=timing.prompt_tokens,
        first=f"{timing.first_token:.2f}",
        new=timing.new_tokens,
        total=f"{timing.total:.2f}",
        speed=f"{timing.tokens_per_second:.1f}",
    )
