"""The input line: several lines, history, completion of commands. Everything prompt_toolkit is in this file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style

from chatglm.terminal.commands import COMMANDS, is_complete

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

PROMPT = "> "
CONTINUATION = ". "
STYLE = Style.from_dict({"prompt": "ansigreen bold", "prompt.continuation": "ansibrightblack"})


class Editor:
    """Reads one message or command at a time from the terminal."""

    def __init__(
        self, history: History, *, color: bool = True, source: Input | None = None, screen: Output | None = None
    ) -> None:
        self._session: PromptSession[str] = PromptSession(
            multiline=True,
            history=history,
            key_bindings=_key_bindings(),
            completer=CommandCompleter(),
            complete_while_typing=False,
            prompt_continuation=_continuation,
            style=STYLE,
            color_depth=None if color else ColorDepth.DEPTH_1_BIT,
            input=source,
            output=screen,
        )

    def read(self, draft: str = "") -> str:
        """The next input, starting from `draft`.

        Raises EOFError for Ctrl-D on an empty line and KeyboardInterrupt for Ctrl-C on an empty line. Ctrl-C on a line
        with text only empties it.
        """
        return self._session.prompt(FormattedText([("class:prompt", PROMPT)]), default=draft)


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @Condition
    def has_text() -> bool:
        from prompt_toolkit.application import get_app

        return bool(get_app().current_buffer.text)

    @bindings.add("enter")
    def _enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.newline(copy_margin=False)

    @bindings.add("escape", "enter")
    def _alt_enter(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @bindings.add("c-c", filter=has_text)
    def _clear_line(event: KeyPressEvent) -> None:
        event.current_buffer.reset()

    return bindings


class CommandCompleter(Completer):
    """Completes the name of a command at the beginning of the input, and the file or folder it takes."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        typed = document.text_before_cursor
        command, blank, path = typed.partition(" ")
        if blank and COMMANDS.get(command) in ("FILE", "FOLDER", "NAME"):
            yield from self._paths.get_completions(Document(path), complete_event)
        elif typed.startswith("/") and not any(character.isspace() for character in typed):
            for name, argument in COMMANDS.items():
                if name.startswith(typed):
                    yield Completion(name + (" " if argument else ""), start_position=-len(typed), display=name)


def _continuation(width: int, line_number: int, wrap_count: int) -> FormattedText:
    return FormattedText([("class:prompt.continuation", CONTINUATION)])


def history_path(environment: dict[str, str] | None = None) -> Path:
    """Where the typed input is kept: under XDG_STATE_HOME, by default ~/.local/state."""
    base = (os.environ if environment is None else environment).get("XDG_STATE_HOME", "")
    # The XDG rules: a path that is not absolute counts as not set.
    state = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
    return state / "chatglm" / "history"


def open_history(path: Path) -> tuple[History, OSError | None]:
    """The history kept in `path`, readable by its owner only; in memory, with the reason, where that is impossible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as error:
        return InMemoryHistory(), error
    return FileHistory(str(path)), None
