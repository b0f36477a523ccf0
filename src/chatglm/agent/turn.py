"""One turn: the model writes, what it asks for is carried out, it is told the result and goes on, until it is done."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

from chatglm.agent.actions import Actions
from chatglm.agent.answer import Answer
from chatglm.agent.events import Event, Notice, TurnDone, TurnReason
from chatglm.agent.limits import Limits
from chatglm.agent.window import Window
from chatglm.chat.message import Done, Message, Role
from chatglm.chat.parser import Segment
from chatglm.engine.request import SamplingParams
from chatglm.errors import PromptError

NOT_CARRIED_OUT = "This was not carried out: the turn had ended."


class ActingTurn:
    """The answer to a conversation, with everything it takes.

    Iterating it runs the model, tools and code, and gives events; the last one is `TurnDone`. `messages()` is right at
    any moment after, also when the iteration was left in the middle or has raised: every call in it has its
    observation, so that the next turn can follow.

    Args:
        engine: anything with `submit`, `stream` and `abort` as `chatglm.engine.Engine` has them.
        messages: the conversation, ending with the user's message.
        window: makes prompts; its tokenizer also makes the parsers.
        actions: the tools and the code interpreter.
        limits: how far the turn may go.
        params: how tokens are chosen; each round has the seed after the one before.
        stopped: asked after every token and while tools work; once true the turn ends.
    """

    def __init__(
        self,
        engine: Any,
        messages: Sequence[Message],
        window: Window,
        actions: Actions,
        limits: Limits,
        params: SamplingParams,
        stopped: Callable[[], bool],
    ) -> None:
        self.engine, self.window, self.actions = engine, window, actions
        self.limits, self.params = limits, params
        self.rounds = self.prompt_tokens = self.new_tokens = 0
        self._conversation, self._said = list(messages), list[Message]()
        self._stopped = stopped
        self._answer: Answer | None = None
        self._began = time.monotonic()
        self._errors = 0

    def messages(self) -> list[Message]:
        """What was said and observed since the user's message."""
        running = self._answer.messages() if self._answer is not None else []
        return with_all_observations([*self._said, *running])

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said that could stand in a conversation."""
        said = self.messages()
        return not said or (self._answer is not None and not any(message.content for message in said))

    def __iter__(self) -> Iterator[Event]:
        self._began = time.monotonic()
        reason: TurnReason | None = None
        while reason is None:
            try:
                prompt_ids, cut = self.window.prompt([*self._conversation, *self._said])
            except PromptError as error:
                if not self._said:
                    raise
                yield Notice("no_room", str(error))
                reason = "length"
                break
            if cut:
                yield Notice("history_cut", f"the {cut} oldest turns were left out: the context is full")
            reason = yield from self._round(prompt_ids)
        seconds = time.monotonic() - self._began
        yield TurnDone(reason, self.rounds, self.prompt_tokens, self.new_tokens, seconds, not self.is_empty)

    # one round

    def _round(self, prompt_ids: list[int]) -> Generator[Event, None, TurnReason | None]:
        """One answer and what it asks for; returns why the turn is over, None while it is not."""
        left = self._tokens_left(len(prompt_ids))
        if left < 1:
            return "length"
        self._answer = answer = self._asked(prompt_ids, left)
        self.prompt_tokens = self.prompt_tokens or len(prompt_ids)
        reason = yield from self._write(answer)
        if reason == "abort":
            return self._over() or "abort"
        if reason == "length":
            return "length"
        # In one step: a Ctrl-C must not leave the answer both said and running.
        self._said, self._answer = [*self._said, *answer.messages()], None
        calls = answer.calls()
        if not calls:
            return "stop"
        if self.rounds == self.limits.max_rounds:
            return "rounds"
        return (yield from self._act(calls))

    def _asked(self, prompt_ids: list[int], left: int) -> Answer:
        params = self.params
        most = left if params.max_tokens is None else min(left, params.max_tokens)
        params = replace(
            params,
            seed=None if params.seed is None else (params.seed + self.rounds) % 2**63,
            max_tokens=most,
            min_tokens=min(params.min_tokens, most),
        )
        parser = self.window.tokenizer.stream_parser(self.actions.tools.names)
        return Answer(self.engine, prompt_ids, parser, params, stopped=lambda: self._over() is not None)

    def _write(self, answer: Answer) -> Generator[Event, None, str]:
        reason = "abort"
        try:
            for event in answer:
                if isinstance(event, Done):
                    reason = event.reason
                else:
                    yield event
        finally:
            self.new_tokens += answer.new_tokens
        return reason

    def _act(self, calls: Sequence[Segment]) -> Generator[Event, None, TurnReason | None]:
        for segment in calls:
            over = self._over() or self._too_many_errors()
            if over:
                return over
            observation, more = self.actions.carry_out(segment, lambda: self._over() is not None)
            self._said.append(Message(Role.OBSERVATION, observation.text))
            yield observation
            yield from more
            self._errors = self._errors + 1 if observation.status == "invalid" else 0
        self.rounds += 1
        return self._too_many_errors() or self._over()

    def _too_many_errors(self) -> TurnReason | None:
        return "errors" if self._errors > self.limits.max_errors else None

    def _over(self) -> TurnReason | None:
        if self._stopped():
            return "abort"
        most = self.limits.max_seconds
        return "seconds" if most is not None and time.monotonic() - self._began > most else None

    def _tokens_left(self, prompt_tokens: int) -> int:
        limits = [self.window.context_length - prompt_tokens]
        if self.limits.max_new_tokens is not None:
            limits.append(self.limits.max_new_tokens - self.new_tokens)
        return min(limits)


def with_all_observations(messages: Sequence[Message]) -> list[Message]:
    """The messages of a turn, with an observation for every call at its end that has none."""
    end = len(messages)
    while end and messages[end - 1].role is Role.OBSERVATION:
        end -= 1
    calls, observed, start = 0, len(messages) - end, end
    while start and messages[start - 1].role is Role.ASSISTANT:
        start -= 1
        calls += messages[start].metadata != ""
    return [*messages, *[Message(Role.OBSERVATION, NOT_CARRIED_OUT)] * (calls - observed)]
