"""Answers that use tools and run code, behind the same seam as plain ones; and how they look on the screen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatglm.chat.message import CodeDone, Message, Role, TextDelta, ToolCall, ToolCallDelta, ToolCallDone
from chatglm.errors import ChatGLMError
from chatglm.terminal.language import ENGLISH, Texts
from chatglm.terminal.sampling import Sampling
from chatglm.terminal.screen import Screen, printable
from chatglm.terminal.workbench import Workbench, WorkbenchError

if TYPE_CHECKING:
    from chatglm.agent.actions import Ask
    from chatglm.agent.turn import Turn
    from chatglm.engine.request import SamplingParams

SHOWN = 2000  # characters of a result on the screen; the model is told more


class ActingResponder:
    """A loaded model that may act with what lies on the workbench.

    The system message the model reads is made anew for every prompt, from the conversation's own and from the tools:
    so a conversation can be saved with tools and go on with others.
    """

    def __init__(self, model: Any, bench: Workbench, ask: Ask) -> None:
        from chatglm.agent.actions import Actions
        from chatglm.tools.toolbox import ToolBox

        if model.tokenizer.version == "chatglm2":
            raise ChatGLMError("ChatGLM2 knows neither tools nor code; use a ChatGLM3 model with --tools and --code")
        self.model = model
        self.actions = Actions(ToolBox(bench.tools), bench.sandbox, ask)
        self.name: str = model.name
        self.context_length: int = model.context_length
        self.vocabulary: str = model.vocabulary

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a conversation with the tools, up to where the next answer begins."""
        return len(self.model.tokenizer.render(self._with_tools(messages)).ids)

    def reply(
        self, messages: Sequence[Message], sampling: Sampling, *, seed: int | None, stop: threading.Event
    ) -> Turn:
        """Begin a turn; see `chatglm.agent.turn.Turn`."""
        from chatglm.agent.limits import Limits
        from chatglm.agent.opening import context_of
        from chatglm.agent.turn import Turn
        from chatglm.agent.window import Window

        engine = self.model.engine()
        length = min(context_of(engine, None), self.context_length, sampling.max_length or self.context_length)
        return Turn(
            engine,
            self._with_tools(messages),
            Window(self.model.tokenizer, length, may_cut=False),
            self.actions,
            Limits(max_new_tokens=sampling.max_new_tokens, max_seconds=None),
            engine_sampling(sampling, seed),
            stop.is_set,
        )

    def _with_tools(self, messages: Sequence[Message]) -> list[Message]:
        from chatglm.agent.prompts import own_text, system_message

        own = messages[0] if messages and messages[0].role is Role.SYSTEM else None
        system = system_message(
            own_text(own) if own else None, self.actions.tools.schemas(), self.actions.sandbox is not None
        )
        return [*([system] if system else []), *messages[1 if own else 0 :]]


def engine_sampling(sampling: Sampling, seed: int | None) -> SamplingParams:
    """The sampling options as the engine takes them."""
    from chatglm.engine.request import SamplingParams

    chosen: dict[str, Any] = {"temperature": 0.0}
    if not sampling.deterministic:
        chosen = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k or 0}
    if sampling.repetition_penalty is not None:
        chosen["repetition_penalty"] = sampling.repetition_penalty
    return SamplingParams(seed=seed, **chosen)


@dataclass
class ActingScreen(Screen):
    """Also shows calls, results, figures and files. What is not the answer itself goes to `aside`, if there is one."""

    texts: Texts = ENGLISH
    bench: Workbench | None = None
    aside: Screen | None = None

    def show(self, event: object) -> None:
        """One event of a turn."""
        from chatglm.agent.events import FileProduced, ImageProduced, Notice, Observation

        if isinstance(event, TextDelta):
            super().show(event)
        elif isinstance(event, (ToolCallDelta, ToolCallDone, CodeDone)):
            if self.aside is None:
                super().show(event)
            else:
                self.end_line()
                self.aside.show(event)
        elif isinstance(event, Observation):
            seconds = f"{event.seconds:.1f}"
            self.remark(
                self.texts.result_of.format(name=event.name, status=self.texts.word(event.status), seconds=seconds)
            )
            self.remark(self._shortened(event.text))
        elif isinstance(event, ImageProduced):
            self.remark(self._saved(event))
        elif isinstance(event, FileProduced):
            self.remark(self.texts.produced.format(name=printable(event.name), size=event.size))
        elif isinstance(event, Notice):
            told = f"{event.kind.replace('_', ' ')} {event.reason or event.count or ''}".strip()
            self.remark(self.texts.notice.format(text=printable(told)))

    def remark(self, text: str) -> None:
        """A sentence beside the answer."""
        self.end_line()
        (self.aside or self).note(text)

    def _shortened(self, text: str) -> str:
        text = printable(text)
        if len(text) <= SHOWN:
            return text
        return f"{text[:SHOWN]}\n{self.texts.more_characters.format(count=len(text) - SHOWN)}"

    def _saved(self, event: Any) -> str:
        if self.bench is None:
            return ""
        try:
            return self.texts.figure.format(path=self.bench.save_figure(event))
        except WorkbenchError as error:
            return self.texts.no_figure.format(error=error)


def person_decides(texts: Texts, screen: Screen, read: Callable[[str], str] | None) -> Ask:
    """Asks the person at the terminal before a dangerous tool is used; where there is none, the answer is no.

    Args:
        texts: the program's language.
        screen: where the question is asked.
        read: reads an answer; None: nobody can be asked.
    """

    def ask(call: ToolCall) -> bool:
        arguments = ", ".join(f"{name}={value!r}" for name, value in (call.arguments or {}).items())
        screen.end_line()
        answer = "" if read is None else read(printable(texts.ask.format(name=call.name, arguments=arguments)))
        allowed = answer.strip().lower() in ("y", "yes", "是", "好")
        if not allowed:
            screen.note(texts.refused.format(name=call.name))
        return allowed

    return ask


def read_answer(question: str) -> str:
    """One line from the keyboard; Ctrl-C and Ctrl-D mean no."""
    import signal
    import sys

    from chatglm.terminal.keyboard import typing_shown

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with typing_shown():
            sys.stderr.write(question)
            sys.stderr.flush()
            return sys.stdin.readline()
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return ""
    finally:
        signal.signal(signal.SIGINT, before)
