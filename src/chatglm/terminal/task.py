"""`chatglm agent`: a task carried out before one's eyes."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatglm.chat.message import TextDelta
from chatglm.errors import UsageError
from chatglm.terminal.consent import person_decides, read_answer
from chatglm.terminal.keyboard import typing_hidden
from chatglm.terminal.opening import EMBEDDED, Load, load_model, open_session, wishes_of
from chatglm.terminal.replay import show_replay
from chatglm.terminal.screen import Screen
from chatglm.terminal.start import INTERRUPTED, tolerant
from chatglm.terminal.turn import stop_on_interrupt
from chatglm.terminal.workbench import open_workbench
from chatglm.words import choose, printable

if TYPE_CHECKING:
    from chatglm.agent.actions import Ask
    from chatglm.agent.session import Session
    from chatglm.agent.task import AgentTask


def start_task(options: argparse.Namespace, load: Load = load_model) -> int:
    """Run `chatglm agent` with parsed options.

    Args:
        options: as `chatglm.cli` parses them.
        load: loads the model the options name (tests put a small fake here).
    """
    words = choose(options.lang)
    if options.replay:
        return show_replay(options, words, lambda screen: _ask(options, screen))
    if options.task is None or not options.task.strip():
        raise UsageError("there is no TASK; say what is to be done, or give --replay FILE")
    wishes = wishes_of(options)
    _check_limits(options)
    with open_workbench(options) as bench:
        steer = sys.stderr.isatty()
        screen = Screen(tolerant(sys.stderr), words, steer=steer, color=False, bench=bench)
        screen.say("loading", model=options.model or EMBEDDED)
        with open_session(options, wishes, load(options), bench, _ask(options, screen), refuse=False) as session:
            return _carry_out(_task(options, session), screen)


def _check_limits(options: argparse.Namespace) -> None:
    """Before a model is loaded, which can take minutes."""
    from chatglm.agent.limits import Limits, require_whole
    from chatglm.agent.trace import check_target

    Limits(max_seconds=options.max_seconds)
    if options.max_steps is not None:
        require_whole("--max-steps", options.max_steps, 1)
    if options.trace is not None:
        check_target(Path(options.trace))


def _ask(options: argparse.Namespace, screen: Screen) -> Ask:
    """Who decides about dangerous tools: `--yes`, or the person at the terminal."""
    if options.yes:
        return lambda call: True
    here = sys.stdin is not None and sys.stdin.isatty()
    return person_decides(screen, read_answer if here else None)


def _task(options: argparse.Namespace, session: Session) -> AgentTask:
    from chatglm.agent.task import AgentTask

    limits = {name: getattr(options, name) for name in ("max_steps", "max_seconds")}
    limits = {name: value for name, value in limits.items() if value is not None}
    return AgentTask(session, options.task, files=options.upload or (), trace=options.trace, **limits)


def _carry_out(task: AgentTask, screen: Screen) -> int:
    answer = Screen(tolerant(sys.stdout), screen.words, steer=sys.stdout.isatty(), color=False)
    view = _View(screen, answer)
    with typing_hidden(), stop_on_interrupt(task):
        for event in task:
            view.show(event)
    assert task.result is not None
    if task.result.reason == "abort":
        return INTERRUPTED
    return 0 if task.result.reason == "done" else 1


@dataclass
class _View:
    """Shows a task: its final answer on one screen, everything else on the other."""

    aside: Screen
    answer: Screen
    answering: bool = False

    def show(self, event: Any) -> None:
        from chatglm.agent.events import AnswerBegun, PlanMade, StepBegun, StepEnded, TaskDone

        words = self.aside.words
        if isinstance(event, PlanMade):
            steps = "\n".join(f"{number}. {step}" for number, step in enumerate(event.steps, 1))
            self._note(words("plan", steps=steps))
        elif isinstance(event, StepBegun):
            self._note(words("step", number=event.number, text=event.text))
        elif isinstance(event, StepEnded):
            if not event.ok:
                self._note(words("step_failed", number=event.number, text=event.text))
        elif isinstance(event, AnswerBegun):
            self.aside.end_line()
            self.answering = True
        elif isinstance(event, TaskDone):
            self.answer.end_line()
            counts = {"steps": event.steps, "revisions": event.revisions, "seconds": f"{event.seconds:.1f}"}
            self._note(words("task_over", reason=words.ending(event.reason), **counts))
        elif self.answering and isinstance(event, TextDelta):
            self.answer.show(event)
        else:
            self.aside.show(event)

    def _note(self, text: str) -> None:
        self.aside.note(printable(text))
