"""How `chatglm chat` begins: one answer on standard output, or the interactive program."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from chatglm.chat.saved import SavedConversation, load_file
from chatglm.errors import ChatGLMError
from chatglm.terminal.acting import ActingResponder, ActingScreen, person_decides, read_answer
from chatglm.terminal.app import Chat, describe, statistics_line
from chatglm.terminal.conversation import Conversation
from chatglm.terminal.keyboard import typing_hidden
from chatglm.terminal.language import CHINESE, ENGLISH, Texts, choose
from chatglm.terminal.responder import EMBEDDED, Responder
from chatglm.terminal.sampling import Sampling, check_seed
from chatglm.terminal.screen import Screen
from chatglm.terminal.turn import take_turn
from chatglm.terminal.workbench import Workbench, open_workbench

if TYPE_CHECKING:
    from collections.abc import Callable

INTERRUPTED = 130


class UsageError(ChatGLMError, ValueError):
    """The command line cannot be carried out as it stands."""

    exit_status = 2


def start(options: argparse.Namespace, load: Callable[[argparse.Namespace], Responder] | None = None) -> int:
    """Run `chatglm chat` with parsed options; everything that can be checked is checked before the model is loaded.

    Args:
        options: as `chatglm.cli` parses them.
        load: loads the model the options name (tests put a small fake here).
    """
    sampling, seed = sampling_of(options), check_seed(options.seed)
    saved = load_file(Path(options.load)) if options.load else None
    prompt = _prompt(options.prompt)
    if prompt is None and not sys.stdout.isatty():
        raise UsageError("standard output is no terminal, so there is nobody to talk to; give a PROMPT or pipe one in")
    if load is None:
        from chatglm.terminal.model_responder import load_responder

        load = load_responder
    wishes = _Wishes(options, sampling, seed, saved)
    with open_workbench(options) as bench:
        return (
            _interactive(wishes, load, bench) if prompt is None else _one_answer(wishes, load(options), prompt, bench)
        )


@dataclass(frozen=True)
class _Wishes:
    """The options, and what was made of them before a model was loaded."""

    options: argparse.Namespace
    sampling: Sampling
    seed: int | None
    saved: SavedConversation | None

    def open(self, responder: Responder) -> tuple[Conversation, bool]:
        """The conversation to go on with, and whether its token ids mean the same to this model."""
        conversation, same = Conversation.of(self.saved, responder.vocabulary) if self.saved else (Conversation(), True)
        if self.options.system is not None:
            conversation.set_system(self.options.system)
        return conversation, same


def sampling_of(options: argparse.Namespace) -> Sampling:
    """The sampling options, checked.

    Raises:
        ChatGLMError: a value no sampler can use, or options that contradict each other.
    """
    chosen = {name: getattr(options, name) for name in ("temperature", "top_p", "top_k")}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    against = [name for name, value in chosen.items() if (name, value) != ("temperature", 0)]
    if options.greedy and against:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in against)
        raise UsageError(f"--greedy always takes the likeliest token, so {names} would do nothing; leave one out")
    return Sampling(
        **chosen,
        repetition_penalty=options.repetition_penalty,
        max_new_tokens=options.max_new_tokens,
        max_length=options.max_length,
        greedy=options.greedy,
    )


def _prompt(argument: str | None) -> str | None:
    """The one message to answer, or None for an interactive chat."""
    if argument is None and sys.stdin is not None and sys.stdin.isatty():
        return None
    given = argument not in (None, "-")
    prompt = _standard_input() if argument is None or argument == "-" else argument
    if given and _waiting_in_pipe():
        sys.stderr.write("chatglm: note: standard input is ignored because a PROMPT was given\n")
    if not prompt.strip():
        where = "the PROMPT" if given else "the text on standard input"
        raise UsageError(f"{where} is empty; it must be a message to answer")
    return prompt


def _waiting_in_pipe() -> bool:
    """Whether standard input is a pipe in which bytes wait, as far as the system tells; none is read."""
    try:
        import fcntl
        import termios

        if sys.stdin is None or not stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
            return False
        count = fcntl.ioctl(sys.stdin.fileno(), termios.FIONREAD, bytes(4))
    except (ImportError, OSError, ValueError):  # Windows; a standard input that is no file
        return False
    return any(count)


def _standard_input() -> str:
    if sys.stdin is None:
        raise UsageError("there is no standard input and no PROMPT; one of them must bring the message to answer")
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 text: {error.reason} at byte {error.start}") from None
    return text.removesuffix("\n").removesuffix("\r")


# one answer


def _one_answer(wishes: _Wishes, responder: Responder, prompt: str, bench: Workbench | None) -> int:
    texts = choose(wishes.options.lang)
    screen = Screen(tolerant(sys.stdout), steer=sys.stdout.isatty(), color=False)
    if bench is not None:
        aside = Screen(tolerant(sys.stderr), color=False)
        screen = ActingScreen(screen.stream, steer=screen.steer, color=False, texts=texts, bench=bench, aside=aside)
        responder = ActingResponder(responder, bench, person_decides(texts, aside, None))
        prompt = bench.announced(prompt)
    conversation, _ = wishes.open(responder)
    conversation.ask(prompt)
    _check_length(responder, conversation, wishes.sampling)
    turn = take_turn(responder, conversation.messages, wishes.sampling, screen, seed=wishes.seed)
    if wishes.options.stats:
        sys.stderr.write(statistics_line(turn.timing, texts) + "\n")
    if isinstance(turn.error, ChatGLMError):
        raise turn.error
    if turn.error is not None:
        raise ChatGLMError(describe(turn.error)) from turn.error
    if turn.reason == "length":
        sys.stderr.write(texts.limit_reached_once + "\n")
    elif turn.reason in ("rounds", "errors"):
        sys.stderr.write(texts.turn_over.format(reason=texts.word(turn.reason)) + "\n")
        return 1
    return INTERRUPTED if turn.reason == "abort" else 0


def _check_length(responder: Responder, conversation: Conversation, sampling: Sampling) -> None:
    tokens = responder.count_tokens(conversation.messages)
    limit = min(responder.context_length, sampling.max_length or responder.context_length)
    if tokens >= limit:
        raise UsageError(f"the prompt has {tokens} tokens; with its answer it must stay within {limit}")


def tolerant(stream: TextIO) -> TextIO:
    """A stream that writes ? for a character its encoding lacks, rather than breaking off the answer."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    return stream


# interactive


def _interactive(wishes: _Wishes, load: Callable[[argparse.Namespace], Responder], bench: Workbench | None) -> int:
    options = wishes.options
    texts, color = choose(options.lang), _wants_color(options)
    screen = Screen(tolerant(sys.stdout), color=color)
    if bench is not None:
        screen = ActingScreen(screen.stream, color=color, texts=texts, bench=bench)
    screen.note(texts.loading.format(model=options.model or EMBEDDED))
    with typing_hidden():
        responder = load(options)
    if bench is not None:
        responder = ActingResponder(responder, bench, person_decides(texts, screen, read_answer))
    conversation, same_vocabulary = wishes.open(responder)
    _greet(screen, texts, options, responder)
    if wishes.saved is not None:
        screen.note(texts.loaded.format(count=len(wishes.saved.messages), path=options.load))
    if not same_vocabulary:
        screen.note(texts.other_vocabulary)
    chat = Chat(
        responder,
        conversation,
        screen,
        texts,
        sampling=wishes.sampling,
        seed=wishes.seed,
        statistics=sys.stderr if options.stats else None,
        tracebacks=options.traceback,
        bench=bench,
    )
    _run(chat, screen, texts, color)
    return 0


def _greet(screen: Screen, texts: Texts, options: argparse.Namespace, responder: Responder) -> None:
    if options.model is None:
        from chatglm.demo import NOTICE_EN, NOTICE_ZH

        # In both languages, whatever the locale: nobody should mistake it for the real one.
        screen.note(f"{NOTICE_EN} {ENGLISH.real_weights}\n{NOTICE_ZH}{CHINESE.real_weights}")
    screen.note(texts.ready.format(model=responder.name))


def _run(chat: Chat, screen: Screen, texts: Texts, color: bool) -> None:
    from chatglm.terminal.editor import Editor, history_path, open_history

    history, error = open_history(history_path())
    if error is not None:
        screen.note(texts.no_history_file.format(error=error))
    chat.run(Editor(history, color=color))


def _wants_color(options: argparse.Namespace) -> bool:
    return not (options.no_color or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb")
