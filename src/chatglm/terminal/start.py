"""How `chatglm chat` begins: one answer on standard output, or the interactive program."""

from __future__ import annotations

import argparse
import os
import select
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from chatglm.chat.saved import SavedConversation, load_file
from chatglm.errors import ChatGLMError, ContextFullError, UsageError
from chatglm.terminal.app import Chat
from chatglm.terminal.consent import person_decides, read_answer
from chatglm.terminal.keyboard import typing_hidden
from chatglm.terminal.markdown import Drawing
from chatglm.terminal.opening import EMBEDDED, Load, Wishes, load_model, open_session, wishes_of
from chatglm.terminal.remote import check_remote, open_remote
from chatglm.terminal.screen import Screen
from chatglm.terminal.theme import Theme, theme_of
from chatglm.terminal.turn import describe, show_turn, statistics_line
from chatglm.terminal.workbench import Workbench, open_workbench
from chatglm.words import Words, choose

if TYPE_CHECKING:
    from chatglm.agent.remote import RemoteSession
    from chatglm.agent.session import Session

INTERRUPTED = 130
PATIENCE = 2.0  # seconds without a word where a pipe brings nothing


def start(options: argparse.Namespace, load: Load = load_model) -> int:
    """Run `chatglm chat` with parsed options; everything that can be checked is checked before the model is loaded.

    Args:
        options: as `chatglm.cli` parses them.
        load: loads the model the options name (tests put a small fake here).
    """
    wishes = wishes_of(options)
    check_remote(options)
    theme_of(options.theme, options.no_color)
    saved = load_file(Path(options.load)) if options.load else None
    prompt = _prompt(options.prompt, choose(options.lang))
    if prompt is None and not sys.stdout.isatty():
        raise UsageError("standard output is no terminal, so there is nobody to talk to; give a PROMPT or pipe one in")
    with open_workbench(options) as bench:
        opening = _Opening(options, wishes, saved, bench)
        return _interactive(opening, load) if prompt is None else _one_answer(opening, load, prompt)


@dataclass(frozen=True)
class _Opening:
    """The options, and what was made of them before a model was loaded."""

    options: argparse.Namespace
    wishes: Wishes
    saved: SavedConversation | None
    bench: Workbench

    @property
    def words(self) -> Words:
        return choose(self.options.lang)

    @property
    def theme(self) -> Theme:
        return theme_of(self.options.theme, self.options.no_color)

    @property
    def model(self) -> str:
        """What the model is called in notes."""
        return str(self.options.api_base or self.options.model or EMBEDDED)

    def session(self, load: Load, screen: Screen, *, asks: bool) -> tuple[Session | RemoteSession, bool]:
        """The session to go on with, and whether its token ids mean the same to this model."""
        session: Session | RemoteSession
        if self.options.api_base is not None:
            session = open_remote(self.options)
        else:
            ask = person_decides(screen.aside or screen, read_answer if asks else None)
            session = open_session(self.options, self.wishes, load(self.options), self.bench, ask)
        same = True if self.saved is None else session.reopen(self.saved, other_tools=True)
        if self.saved is not None and self.options.system is not None:
            session.set_system(self.options.system)
        for path in self.options.upload or ():
            session.upload(path)
        return session, same

    def other(self, load: Load, screen: Screen) -> Callable[..., tuple[Session, str]]:
        """Gives a conversation with another model or adapter: what `Chat` does for /model and /adapter."""
        from chatglm.chat.saved import vocabulary_of

        options = argparse.Namespace(**vars(self.options))

        def reopened(session: Session, **changed: str | None) -> tuple[Session, str]:
            wanted = argparse.Namespace(**{**vars(options), **changed})
            ask = person_decides(screen, read_answer)
            fresh = open_session(wanted, self.wishes, load(wanted), self.bench, ask)
            fresh.reopen(SavedConversation(tuple(session.history), vocabulary_of(session.tokenizer)), other_tools=True)
            fresh.params, fresh.limits, fresh.when_full = session.params, session.limits, session.when_full
            vars(options).update(changed)
            return fresh, str(wanted.model or EMBEDDED)

        return reopened


def _draws(options: argparse.Namespace) -> bool:
    """Whether standard output is a terminal that lines can be written over on."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _prompt(argument: str | None, words: Words) -> str | None:
    """The one message to answer, or None for an interactive chat. Text that is piped in stands below a PROMPT."""
    if argument is None and sys.stdin is not None and sys.stdin.isatty():
        return None
    if argument is None or argument == "-":
        prompt, where = _standard_input(), "the text on standard input"
    else:
        _check_locale(argument)
        prompt, where = argument, "the PROMPT"
    if not prompt.strip():
        raise UsageError(f"{where} is empty; it must be a message to answer")
    if argument not in (None, "-") and (below := _piped_in(words)).strip():
        return f"{prompt}\n\n{below}"
    return prompt


def _check_locale(prompt: str) -> None:
    """Bytes that the locale's encoding does not know come as lone surrogates."""
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        locale = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "not set")
        raise UsageError(
            f"the PROMPT cannot be read in the encoding {sys.getfilesystemencoding()} of this locale ({locale}); set "
            "LC_ALL=C.UTF-8 or PYTHONUTF8=1, or pipe it in"
        )


def _piped_in(words: Words) -> str:
    """What a pipe or a file on standard input holds beside a PROMPT; nothing where it is a terminal or closed."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or no file
        return ""
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return ""
    if stat.S_ISFIFO(mode) and not select.select([sys.stdin], [], [], PATIENCE)[0]:
        sys.stderr.write(f"chatglm: {words('waiting')}\n")
    return _standard_input()


def _standard_input() -> str:
    if sys.stdin is None:
        raise UsageError("there is no standard input and no PROMPT; one of them must bring the message to answer")
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 text: {error.reason} at byte {error.start}") from None
    return text.removesuffix("\n").removesuffix("\r")


# one answer


def _one_answer(opening: _Opening, load: Load, prompt: str) -> int:
    words = opening.words
    aside = Screen(tolerant(sys.stderr), words, color=False)
    output = tolerant(sys.stdout)
    screen = Screen(output, words, steer=sys.stdout.isatty(), color=False, bench=opening.bench, aside=aside)
    if _draws(opening.options):
        screen.drawing = Drawing(output, theme=opening.theme)
    if sys.stderr.isatty():
        aside.say("loading", model=opening.model)
    session, _ = opening.session(load, screen, asks=False)
    try:
        done = show_turn(session.send(prompt), session, screen)
    except ContextFullError as error:
        raise UsageError(words("too_long_once", tokens=error.tokens, limit=error.limit)) from None
    except (ChatGLMError, OSError):
        raise
    except Exception as error:
        raise ChatGLMError(describe(error)) from error
    if done is None or done.reason == "abort":
        return INTERRUPTED
    if opening.options.stats:
        aside.note(statistics_line(done, words))
    if done.reason == "length":
        aside.say("limit_reached_once")
    elif done.reason != "stop":
        aside.say("turn_over", reason=words.ending(done.reason))
        return 1
    answer = session.history[-1].content if done.kept else ""
    if not answer.strip():
        aside.say("said_nothing_once")
        return 1
    if lost := _unwritable(answer, output.encoding or "utf-8"):
        raise ChatGLMError(words("unwritable", count=lost, encoding=output.encoding))
    return 0


def _unwritable(text: str, encoding: str) -> int:
    """How many characters an encoding does not have."""
    return len(text) - len(text.encode(encoding, "ignore").decode(encoding))


def tolerant(stream: TextIO) -> TextIO:
    """A stream that writes ? for a character its encoding lacks, rather than breaking off the answer."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    return stream


# interactive


def _interactive(opening: _Opening, load: Load) -> int:
    options, theme = opening.options, opening.theme
    screen = Screen(tolerant(sys.stdout), opening.words, color=theme.has_color, bench=opening.bench)
    if _draws(options):
        screen.drawing, screen.wraps = Drawing(screen.stream, theme=theme), True
    screen.say("loading", model=opening.model)
    with typing_hidden():
        session, same_vocabulary = opening.session(load, screen, asks=True)
    _greet(screen, options, getattr(session, "model", None) or options.model or EMBEDDED)
    if opening.saved is not None:
        screen.say("loaded", count=len(opening.saved.messages), path=options.load)
    if not same_vocabulary:
        screen.say("other_vocabulary")
    statistics = sys.stderr if options.stats else None
    reopened = None if options.api_base is not None else opening.other(load, screen)
    chat = Chat(session, screen, opening.bench, statistics=statistics, tracebacks=options.traceback, reopened=reopened)
    _run(chat, screen)
    return 0


def _greet(screen: Screen, options: argparse.Namespace, model: str) -> None:
    if options.model is None and options.api_base is None:
        from chatglm.demo import NOTICE_EN, NOTICE_ZH

        notice = NOTICE_ZH if screen.words.language == "zh" else f"{NOTICE_EN} "
        screen.note(notice + screen.words("real_weights"))
    screen.say("ready", model=model)


def _run(chat: Chat, screen: Screen) -> None:
    from chatglm.terminal.editor import Editor, history_path, open_history

    history, error = open_history(history_path())
    if error is not None:
        screen.say("no_history_file", error=error)
    chat.run(Editor(history, color=screen.color))
