"""One turn: the model writes, what it asks for is carried out, it is told the result and goes on, until it is done."""

import itertools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from chatglm.agent.actions import Actions
from chatglm.agent.answer import Answer, seeded
from chatglm.agent.events import ConsentAsked, Event, Notice, TurnDone, TurnReason
from chatglm.agent.limits import Limits
from chatglm.agent.window import Prompt, Window
from chatglm.chat.message import Done, Message, Role
from chatglm.chat.parser import Segment
from chatglm.chat.template import tool_names
from chatglm.engine.request import SamplingParams
from chatglm.errors import ContextFullError

NOT_CARRIED_OUT = "This was not carried out: the turn had ended."


class Turn:
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
        params: how tokens are chosen; with a seed, each answer has its own, see `seeded`.
        stopped: asked after every token and while tools work; once true the turn ends.
        number: of its first answer in the conversation.
        new_id: gives the ids of calls and code; None: counted from 1.
        prompt: the first one, where `window` has made it already.
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
        *,
        number: int = 0,
        new_id: Callable[[], int] | None = None,
        prompt: Prompt | None = None,
    ) -> None:
        self.engine, self.window, self.actions = engine, window, actions
        self.limits, self.params, self.number = limits, params, number
        self.rounds = self.prompt_tokens = self.new_tokens = 0
        self.first_token_seconds: float | None = None
        self.writing_seconds = 0.0
        self._conversation, self._said = list(messages), list[Message]()
        self._stopped, self._new_id = stopped, new_id or itertools.count(1).__next__
        self._prompt = prompt
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
                prompt, self._prompt = self._prompt or self.window.prompt([*self._conversation, *self._said]), None
            except ContextFullError as error:
                if not self._said:
                    raise
                yield Notice("no_room", count=error.tokens)
                reason = "length"
                break
            if cut := self.window.take(prompt):
                yield Notice("history_cut", count=cut)
            reason = yield from self._round(prompt.ids)
        yield self._done(reason)

    def _done(self, reason: TurnReason) -> TurnDone:
        return TurnDone(
            reason,
            self.rounds,
            self.prompt_tokens,
            self.new_tokens,
            time.monotonic() - self._began,
            not self.is_empty,
            self.first_token_seconds,
            self.writing_seconds,
        )

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
        params = seeded(self.params, self.number + self.rounds)
        most = left if params.max_tokens is None else min(left, params.max_tokens)
        params = replace(params, max_tokens=most, min_tokens=min(params.min_tokens, most))
        parser = self.window.tokenizer.stream_parser(self._offered())
        parser.new_id = self._new_id
        return Answer(self.engine, prompt_ids, parser, params, stopped=lambda: self._over() is not None)

    def _offered(self) -> set[str]:
        """Names the model may call: of what there is, and of what the conversation says there is."""
        system = self._conversation[0]
        return {*self.actions.tools.names, *(tool_names(system.tools) if system.role is Role.SYSTEM else ())}

    def _write(self, answer: Answer) -> Generator[Event, None, str]:
        reason, before = "abort", time.monotonic() - self._began
        try:
            with closing(iter(answer)) as events:  # at once, not when an error that holds it is forgotten
                for event in events:
                    if isinstance(event, Done):
                        reason = event.reason
                    else:
                        yield event
        finally:
            self.new_tokens += answer.new_tokens
            self.writing_seconds += answer.writing_seconds
            if self.first_token_seconds is None and answer.first_token_seconds is not None:
                self.first_token_seconds = before + answer.first_token_seconds
        return reason

    def _act(self, calls: Sequence[Segment]) -> Generator[Event, None, TurnReason | None]:
        for segment in calls:
            over = self._over() or self._too_many_errors()
            if over:
                return over
            allowed = self.actions.allows(segment)
            if allowed is None:
                allowed = yield from self._consent(segment)
            observation, more = self.actions.carry_out(segment, allowed, lambda: self._over() is not None)
            self._said.append(Message(Role.OBSERVATION, observation.text))
            yield observation
            yield from more
            self._errors = self._errors + 1 if observation.status == "invalid" else 0
        self.rounds += 1
        return self._too_many_errors() or self._over()

    def _consent(self, segment: Segment) -> Generator[Event, None, bool]:
        """Asks about a call and waits; stopping the turn, or its time, is a no."""
        assert segment.call is not None
        consents = self.actions.consents
        question = consents.ask(segment.id)
        try:
            yield ConsentAsked(segment.id, segment.call)
            return question.wait(lambda: self._over() is not None)
        finally:
            consents.close(segment.id)

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
