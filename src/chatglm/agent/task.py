"""A task: the model makes a plan, works through it with tools and code, changes it where a step fails, and answers."""

import inspect
import time
from collections.abc import Generator, Iterator, Sequence
from os import PathLike
from typing import Any

from chatglm.agent.events import (
    AnswerBegun,
    Notice,
    Observation,
    PlanMade,
    StepBegun,
    StepEnded,
    TaskDone,
    TaskEvent,
    TurnDone,
)
from chatglm.agent.limits import Limits, require_whole
from chatglm.agent.plan import gives_up, numbered, read_plan, why_failed, words_for
from chatglm.agent.session import Session
from chatglm.agent.trace import TraceWriter
from chatglm.agent.uploads import Upload
from chatglm.chat.message import TextDelta
from chatglm.errors import SessionError

MAX_PLAN = 10  # steps of one plan


class AgentTask:
    """One task for a session.

    Iterating it works on the task and gives the events of all its turns, with `PlanMade`, `StepBegun` and `StepEnded`
    between them, and `TaskDone` at the end. Everything stands in the session's history and in the trace.

    A step has failed when the model says so, when the last thing it did in it failed, or when a limit ended it; then
    the model is asked for a new plan from there on. The task has failed when plans are used up, when there is no answer
    or one that says "failed", or when no tool was used and the answer says only that it cannot be done.

    Args:
        session: with the tools and the interpreter the task may use; dangerous tools ask its `on_dangerous`.
        task: what is to be done, in Chinese or English.
        max_steps: steps that are carried out at most, over all plans.
        max_revisions: how often the plan is changed at most.
        max_seconds: wall time of all; None: no limit.
        max_new_tokens: tokens the model may write in all; None: no limit.
        language: "en" or "zh" for the prompts; None: that of the task.
        files: files for the code interpreter; see `Session.send`.
        trace: a file for the trace; see `TraceWriter`.

    Raises:
        SessionError: an empty task or a limit that is none.
        TraceError: the trace cannot be written.
    """

    def __init__(
        self,
        session: Session,
        task: str,
        *,
        max_steps: int = 12,
        max_revisions: int = 3,
        max_seconds: float | None = 900.0,
        max_new_tokens: int | None = None,
        language: str | None = None,
        files: Sequence[Upload] = (),
        trace: str | PathLike[str] | None = None,
    ) -> None:
        if not isinstance(session, Session):
            raise SessionError(f"the session is a {type(session).__name__}; it must be a chatglm.Session")
        if not isinstance(task, str) or not task.strip():
            raise SessionError(f"the task is {task!r}; it must be a text that says what is to be done")
        require_whole("max_steps", max_steps, 1)
        require_whole("max_revisions", max_revisions, 0)
        self.session, self.task = session, task.strip()
        self.max_steps, self.max_revisions = max_steps, max_revisions
        self.limits = Limits(max_new_tokens=max_new_tokens, max_seconds=max_seconds)  # of the whole task
        self.words = words_for(task, language)
        self._files = files
        self.trace = TraceWriter(trace)
        self.result: TaskDone | None = None
        self._steps = self._revisions = self._tokens = 0
        self._began = time.monotonic()
        self._results: list[str] = []
        self._stopped = False
        self._acted = False  # whether a tool or code was used

    def stop(self) -> None:
        """End the task, from any thread."""
        self._stopped = True
        self.session.stop()

    def __iter__(self) -> Iterator[TaskEvent]:
        self._began = time.monotonic()
        self.trace.begin(self.task, self.session.actions.tools.names, self.session.sandbox is not None)
        try:
            for event in self._work():
                self.trace.add(event)
                yield event
        except Exception as error:
            self.trace.add(Notice("failed", reason=f"{type(error).__name__}: {error}"))
            raise
        finally:
            self.trace.close()

    # the loop

    def _work(self) -> Iterator[TaskEvent]:
        reason = yield from self._steps_of_plans()
        answer = ""
        if reason in ("done", "failed", "steps"):
            prompt = self.words.answer.format(task=self.task, results=numbered(self._results) or self.words.nothing)
            spoken = _Spoken()
            yield AnswerBegun()
            yield from self._say(prompt, spoken)
            answer = spoken.text
            reason = self._over() or ("failed" if reason == "done" and self._without_answer(answer) else reason)
        seconds = time.monotonic() - self._began
        self.result = TaskDone(answer, reason, self._steps, self._revisions, seconds)
        yield self.result

    def _without_answer(self, text: str) -> bool:
        """Whether the model itself tells that the task is not done; after work with tools only by the word for it."""
        return not text or why_failed(text) is not None or (not self._acted and gives_up(text))

    def _steps_of_plans(self) -> Generator[TaskEvent, None, str]:
        """Carries out the plan and its revisions; returns why there are no more steps."""
        plan = yield from self._plan(self.words.plan.format(task=self.task, most=self._most()))
        done: list[str] = []
        while plan:
            over = self._over() or ("steps" if self._steps >= self.max_steps else None)
            if over:
                return over
            step, *rest = plan
            why = yield from self._step([line + self.words.done for line in done], step, rest)
            if why is None:
                done, plan = [*done, step], rest
            elif self._over() or self._steps >= self.max_steps:
                continue
            elif self._revisions >= self.max_revisions:
                return "failed"
            else:
                self._revisions += 1
                prompt = self.words.revise.format(task=self.task, step=step, why=why, most=self._most())
                plan = yield from self._plan(prompt)
        return self._over() or "done"

    def _plan(self, prompt: str) -> Generator[TaskEvent, None, list[str]]:
        """A plan; an answer without one means that the task is a single step."""
        spoken = _Spoken()
        yield from self._say(prompt, spoken)
        if self._over():
            return []
        steps = read_plan(spoken.text) or [self.task]
        yield PlanMade(tuple(steps), self._revisions)
        return steps

    def _step(self, done: list[str], step: str, rest: list[str]) -> Generator[TaskEvent, None, str | None]:
        """Carries out a step; returns why it failed, None if it did not."""
        self._steps += 1
        yield StepBegun(self._steps, step)
        plan, number = numbered([*done, step, *rest]), len(done) + 1
        spoken = _Spoken()
        yield from self._say(self.words.step.format(task=self.task, plan=plan, number=number, step=step), spoken)
        why = self._why_failed(spoken)
        text = spoken.text or self.words.nothing if why is None else why
        self._results.append(f"{step} -> {text}")
        yield StepEnded(self._steps, why is None, text)
        return why

    def _why_failed(self, spoken: "_Spoken") -> str | None:
        if spoken.reason != "stop":
            return self.words.ended.format(reason=spoken.reason)
        told = why_failed(spoken.text)
        if told is not None:
            return told
        if spoken.last is not None and not spoken.last.ok:
            return spoken.last.text[:500]
        return None if spoken.text else self.words.nothing

    def _say(self, prompt: str, spoken: "_Spoken") -> Iterator[TaskEvent]:
        """One turn of the session, within what is left of the task's limits."""
        if self._over():
            return
        files, self._files = self._files, ()
        for event in self.session.send(prompt, files, **self._left()):
            spoken.hear(event)
            self._acted = self._acted or isinstance(event, Observation)
            if isinstance(event, TurnDone):
                self._tokens += event.new_tokens
                self._stopped = self._stopped or event.reason == "abort"
            yield event

    # limits

    def _left(self) -> dict[str, Any]:
        """The limits of a turn: the session's, and what is left of the task's."""
        usual, most, tokens = self.session.limits, self.limits.max_seconds, self.limits.max_new_tokens
        seconds = None if most is None else max(0.001, most - (time.monotonic() - self._began))
        return {
            "max_seconds": _least(usual.max_seconds, seconds),
            "max_new_tokens": _least(usual.max_new_tokens, None if tokens is None else tokens - self._tokens),
        }

    def _over(self) -> str | None:
        if self._stopped:
            return "abort"
        if self.limits.max_seconds is not None and time.monotonic() - self._began > self.limits.max_seconds:
            return "seconds"
        tokens = self.limits.max_new_tokens
        return "tokens" if tokens is not None and self._tokens >= tokens else None

    def _most(self) -> int:
        return max(1, min(MAX_PLAN, self.max_steps - self._steps))


class _Spoken:
    """What a turn came to: its last text, its last observation, why it ended."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.last: Observation | None = None
        self.reason = "abort"

    @property
    def text(self) -> str:
        return "".join(self._parts).strip()

    def hear(self, event: TaskEvent) -> None:
        if isinstance(event, TextDelta):
            self._parts.append(event.text)
        elif isinstance(event, Observation):
            self.last, self._parts = event, []
        elif isinstance(event, TurnDone):
            self.reason = event.reason


def _least(*values: Any) -> Any:
    """The smallest of the limits that are there."""
    return min((value for value in values if value is not None), default=None)


_TASK_OPTIONS = frozenset(inspect.signature(AgentTask).parameters) - {"session", "task"}


def run_task(engine: Any, tokenizer: Any, task: str, **options: Any) -> TaskDone:
    """Works on a task in a session of its own and returns the outcome.

    Args:
        engine, tokenizer: as for `Session`.
        task: what is to be done.
        options: those of `AgentTask`; all others are those of `Session`. Limits that both have are the task's.

    Raises:
        SessionError: `on_dangerous="ask"`, which nobody could answer here; as `Session` and `AgentTask` besides.
    """
    if options.get("on_dangerous") == "ask":
        raise SessionError(
            'on_dangerous is "ask" and nobody reads the events; give a function, or iterate an AgentTask'
        )
    own = {name: options.pop(name) for name in _TASK_OPTIONS & options.keys()}
    with Session(engine, tokenizer, **options) as session:
        work = AgentTask(session, task, **own)
        for _ in work:
            pass
    assert work.result is not None
    return work.result
