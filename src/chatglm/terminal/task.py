"""`chatglm agent`: a task carried out before one's eyes, or the trace of one shown again."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatglm.chat.message import TextDelta
from chatglm.terminal.acting import ActingScreen, engine_sampling, person_decides, read_answer
from chatglm.terminal.keyboard import typing_hidden
from chatglm.terminal.language import Texts, choose
from chatglm.terminal.responder import EMBEDDED
from chatglm.terminal.sampling import check_seed
from chatglm.terminal.screen import Screen, printable
from chatglm.terminal.start import INTERRUPTED, UsageError, sampling_of, tolerant
from chatglm.terminal.turn import stop_on_interrupt
from chatglm.terminal.workbench import Workbench, may_use, open_workbench

if TYPE_CHECKING:
    from collections.abc import Callable

    from chatglm.agent.actions import Ask
    from chatglm.agent.replay import Replayed
    from chatglm.agent.session import Session
    from chatglm.agent.task import AgentTask

WITH_REPLAY = {"replay", "tools", "code", "upload", "output", "tier", "dangerously_run_unisolated", "yes", "lang"}
NO_OPTIONS = {"command", "handler", "traceback"}


def start_task(options: argparse.Namespace, load: Callable[[argparse.Namespace], Any] | None = None) -> int:
    """Run `chatglm agent` with parsed options.

    Args:
        options: as `chatglm.cli` parses them.
        load: loads the model the options name (tests put a small fake here).
    """
    texts = choose(options.lang)
    if options.replay:
        return _replay(options, texts)
    if options.task is None or not options.task.strip():
        raise UsageError("there is no TASK; say what is to be done, or give --replay FILE")
    sampling_of(options), check_seed(options.seed)
    _check_limits(options)
    if load is None:
        from chatglm.terminal.model_responder import load_responder

        load = load_responder
    with open_workbench(options) as bench:
        screen = _aside(texts, bench)
        screen.note(texts.loading.format(model=options.model or EMBEDDED))
        with _session(options, bench, _ask(options, texts, screen), load(options)) as session:
            return _carry_out(_task(options, session), screen, texts)


def _check_limits(options: argparse.Namespace) -> None:
    """Before a model is loaded, which can take minutes."""
    from chatglm.agent.limits import Limits, require_whole
    from chatglm.agent.trace import check_target

    Limits(max_seconds=options.max_seconds)
    if options.max_steps is not None:
        require_whole("max_steps", options.max_steps, 1)
    if options.trace is not None:
        check_target(Path(options.trace))


def _ask(options: argparse.Namespace, texts: Texts, screen: Screen) -> Ask:
    here = sys.stdin is not None and sys.stdin.isatty()
    return may_use(options, person_decides(texts, screen, read_answer if here else None))


def _aside(texts: Texts, bench: Workbench | None) -> ActingScreen:
    return ActingScreen(tolerant(sys.stderr), steer=sys.stderr.isatty(), color=False, texts=texts, bench=bench)


def _session(options: argparse.Namespace, bench: Workbench | None, ask: Ask, model: Any) -> Session:
    from chatglm.agent.opening import context_of
    from chatglm.agent.session import Session

    sampling, engine = sampling_of(options), model.engine()
    return Session(
        engine,
        model.tokenizer,
        tools=bench.tools if bench else (),
        sandbox=bench.sandbox if bench else None,
        params=engine_sampling(sampling, check_seed(options.seed)),
        max_new_tokens=sampling.max_new_tokens,
        context_length=min(context_of(engine, None), sampling.max_length or model.context_length),
        on_dangerous=ask,
    )


def _task(options: argparse.Namespace, session: Session) -> AgentTask:
    from chatglm.agent.task import AgentTask

    limits = {name: getattr(options, name) for name in ("max_steps", "max_seconds")}
    limits = {name: value for name, value in limits.items() if value is not None}
    return AgentTask(session, options.task, files=options.upload or (), trace=options.trace, **limits)


def _carry_out(task: AgentTask, screen: ActingScreen, texts: Texts) -> int:
    answer = Screen(tolerant(sys.stdout), steer=sys.stdout.isatty(), color=False)
    view = _View(screen, answer, texts)
    with typing_hidden(), stop_on_interrupt(_Stop(task)):  # type: ignore[arg-type]
        for event in task:
            view.show(event)
    assert task.result is not None
    if task.result.reason == "abort":
        return INTERRUPTED
    return 0 if task.result.reason == "done" else 1


class _Stop:
    """What Ctrl-C sets, as a `threading.Event` is set."""

    def __init__(self, task: AgentTask) -> None:
        self.task, self._set = task, False

    def set(self) -> None:
        self._set = True
        self.task.stop()

    def is_set(self) -> bool:
        return self._set


@dataclass
class _View:
    """Shows a task: its final answer on one screen, everything else on the other."""

    aside: ActingScreen
    answer: Screen
    texts: Texts
    answering: bool = False

    def show(self, event: Any) -> None:
        from chatglm.agent.events import AnswerBegun, PlanMade, StepBegun, StepEnded, TaskDone

        texts = self.texts
        if isinstance(event, PlanMade):
            steps = "\n".join(f"{number}. {step}" for number, step in enumerate(event.steps, 1))
            self._note(texts.plan.format(steps=steps))
        elif isinstance(event, StepBegun):
            self._note(texts.step.format(number=event.number, text=event.text))
        elif isinstance(event, StepEnded):
            if not event.ok:
                self._note(texts.step_failed.format(number=event.number, text=event.text))
        elif isinstance(event, AnswerBegun):
            self.aside.end_line()
            self.answering = True
        elif isinstance(event, TaskDone):
            self.answer.end_line()
            counts = {"steps": event.steps, "revisions": event.revisions, "seconds": f"{event.seconds:.1f}"}
            self._note(texts.task_over.format(reason=texts.word(event.reason), **counts))
        elif self.answering and isinstance(event, TextDelta):
            self.answer.show(event)
        else:
            self.aside.show(event)

    def _note(self, text: str) -> None:
        self.aside.note(printable(text))


# replay


def _replay(options: argparse.Namespace, texts: Texts) -> int:
    from chatglm.agent.replay import replay

    given = {name for name, value in vars(options).items() if value is not None and value is not False}
    wrong = sorted(given - WITH_REPLAY - NO_OPTIONS)
    if wrong:
        name = "a TASK" if wrong[0] == "task" else "--" + wrong[0].replace("_", "-")
        raise UsageError(f"{name} has no meaning with --replay, which runs no model; leave it out")
    different = 0
    with ExitStack() as stack:
        bench = stack.enter_context(open_workbench(options))
        screen = Screen(tolerant(sys.stdout), steer=sys.stdout.isatty(), color=False)
        steps = replay(
            options.replay,
            tools=bench.tools if bench else None,
            sandbox=bench.sandbox if bench else None,
            on_dangerous=_ask(options, texts, screen),
        )
        for step in steps:
            screen.note(_told(step, texts))
            different += step.same is False
    return 1 if different else 0


def _told(step: Replayed, texts: Texts) -> str:
    """A record in words, and whether its action gave the same now."""
    record = step.record
    head = f"{record.get('time', 0):8.2f}  {record['kind']}"
    lines = [f"{head}  {' '.join(_details(record))}".rstrip(), *_body(record)]
    if step.same is True:
        lines.append(texts.replay_same)
    elif step.same is False and step.observed is not None:
        lines.append(texts.replay_different.format(text=step.observed.text))
    return printable("\n".join(lines))


def _details(record: dict[str, Any]) -> list[str]:
    names = ("number", "name", "status", "about", "mime", "size", "reason")
    return [str(record[name]) for name in names if name in record]


def _body(record: dict[str, Any]) -> list[str]:
    if record["kind"] == "action":
        return [record["code"] if "code" in record else json.dumps(record.get("arguments"), ensure_ascii=False)]
    if record["kind"] == "plan":
        return [f"{number}. {step}" for number, step in enumerate(record["steps"], 1)]
    return [text for text in (record.get("task"), record.get("text")) if text]
