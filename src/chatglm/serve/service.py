"""One model behind the routes: prompts of conversations, settings within limits, and answers as they are made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from chatglm.agent.answer import Answer
from chatglm.agent.prompts import system_message
from chatglm.chat.message import Event, Message, Role, TextDelta
from chatglm.chat.openai import from_openai
from chatglm.engine.request import Output, SamplingParams
from chatglm.errors import ChatGLMError
from chatglm.own_engine import token_texts
from chatglm.serve.config import ServerConfig
from chatglm.serve.errors import ApiError, from_ours, wrong
from chatglm.serve.plain_text import PlainText
from chatglm.serve.sentences import SentenceModel
from chatglm.serve.structured import Forms

LEAST_ROOM = 1  # tokens an answer must have room for


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to make.

    Attributes:
        prompt_ids: what is answered.
        params: how its tokens are chosen.
        tools: names of the tools that may be called; False: none are offered.
        adapter: name of an adapter; None: the base weights.
        plain: a text that is continued, rather than an answer in a conversation.
    """

    prompt_ids: list[int]
    params: SamplingParams
    tools: Collection[str] | bool = False
    adapter: str | None = None
    plain: bool = False


class Service:
    """Joins an engine that steps for itself with the tokenizer of its model.

    Args:
        engine: a `chatglm.engine.Engine` whose worker runs, or anything with its `submit`, `deliver`,
            `abort` and `stats`.
        tokenizer: of the same model.
        config: what is allowed.
        sentences: a model for embeddings alone, if there is one.
    """

    def __init__(
        self, engine: Any, tokenizer: Any, config: ServerConfig, sentences: SentenceModel | None = None
    ) -> None:
        self.engine, self.tokenizer, self.config, self.sentences = engine, tokenizer, config, sentences
        self.created = int(time.time())
        self.adapters: dict[str, str] = {}  # name of a model -> name of the engine's adapter
        self.forms = Forms(tokenizer, max_bytes=config.max_schema_bytes, max_depth=config.max_schema_depth)
        self.context: int = engine.context
        self._texts: list[bytes] | None = None

    # what is asked for

    def adapter_of(self, model: str) -> str | None:
        """The adapter a model's name stands for.

        Raises:
            ApiError: 404, a name that is not served.
        """
        if model in (self.config.name, *self.config.aliases):
            return None
        if model in self.adapters:
            return self.adapters[model]
        known = ", ".join((self.config.name, *self.config.aliases, *self.adapters))
        raise ApiError(
            404,
            f"the model {model!r:.200} is not served here; served are: {known}",
            code="model_not_found",
            param="model",
        )

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[int]:
        """The prompt of a conversation; tools stand in its system message, behind the client's own words.

        Raises:
            ApiError: 400, roles that this model does not have or in an order it cannot read.
        """
        try:
            said = _joined_systems(from_openai(messages))
            own = said[0] if said and said[0].role is Role.SYSTEM else None
            if tools:
                system = system_message(own.content if own else None, tools, code=False)
                said = [system, *said[1 if own else 0 :]] if system is not None else said
            ids: list[int] = self.tokenizer.render(said).ids
            return ids
        except ChatGLMError as error:
            raise ApiError(400, str(error), code="invalid_value", param="messages") from None

    def most_tokens(self, prompt_tokens: int, wanted: int | None, field: str = "messages") -> int:
        """Tokens an answer may have; `field` is where the prompt stands.

        Raises:
            ApiError: 400, the prompt fills the context, or more is wanted than the server allows.
        """
        room = self.context - prompt_tokens
        if room < LEAST_ROOM:
            raise ApiError(
                400,
                f"{self._too_long()}; the prompt has {prompt_tokens}",
                code="context_length_exceeded",
                param=field,
            )
        limit = self.config.max_tokens_limit
        if wanted is not None and limit is not None and wanted > limit:
            raise wrong("max_tokens", f"max_tokens is {wanted}; this server allows {limit}")
        if wanted is not None and wanted > room:
            raise ApiError(
                400,
                f"{self._too_long()}; the prompt has {prompt_tokens} and {wanted} are wanted",
                code="context_length_exceeded",
                param="max_tokens",
            )
        return min(room, *(value for value in (wanted or self.config.max_tokens, limit, room) if value is not None))

    def _too_long(self) -> str:
        # Clients know the error by OpenAI's own words, or by its code in the text.
        return (
            f"(context_length_exceeded) This model's maximum context length is {self.context} tokens, answer included"
        )

    def ids_of(self, prompt: str | list[int], field: str = "prompt") -> list[int]:
        """A prompt's ids; a text gets the tokens that every prompt of this model begins with.

        Raises:
            ApiError: 400, ids the vocabulary does not have, or nothing.
        """
        ids = prompt if isinstance(prompt, list) else list(self.tokenizer(prompt)["input_ids"])
        wrong_id = next((token_id for token_id in ids if token_id >= len(self.tokenizer)), None)
        if wrong_id is not None:
            raise wrong(field, f"a token id is {wrong_id}; the vocabulary has {len(self.tokenizer)}")
        if not ids:
            raise wrong(field, "a prompt has no tokens; at least one is needed")
        return ids

    def text_of(self, token_ids: Sequence[int]) -> str:
        """What ids spell, special tokens left out."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def check_counts(self, n: int, stops: int, biases: int) -> None:
        """Refuses what would cost too much.

        Raises:
            ApiError: 400, naming the field.
        """
        config = self.config
        for field, value, most in (
            ("n", n, config.max_choices),
            ("stop", stops, config.max_stops),
            ("logit_bias", biases, config.max_bias),
        ):
            if value > most:
                raise wrong(field, f"{field} asks for {value}; this server allows {most}")

    # answers

    def parser(self, job: Job) -> Any:
        """What reads a job's answer."""
        parser = self.tokenizer.stream_parser(job.tools)
        return PlainText(parser.decoder, parser.stop_ids) if job.plain else parser

    def begin(self, jobs: Sequence[Job]) -> Answers:
        """Have answers made.

        Raises:
            ApiError: a request the engine refuses; none is made then.
        """
        return Answers(self, jobs)

    async def finished(self, jobs: Sequence[Job]) -> list[Answer]:
        """The answers when all are done, in the order of the jobs."""
        async with self.begin(jobs) as answers:
            async for _ in answers.events():
                pass
        return answers.made

    # what ids mean

    @property
    def texts(self) -> list[bytes]:
        """The bytes each id adds to a text."""
        if self._texts is None:
            self._texts = token_texts(self.tokenizer)
        return self._texts


class Answers:
    """Several answers while they are made, read on an event loop. Leaving its `async with` ends what is left.

    Attributes:
        made: the answers.
        gaps: seconds from each output with tokens to the next one of its answer, as the engine gave them.
    """

    def __init__(self, service: Service, jobs: Sequence[Job]) -> None:
        self.engine, self.made = service.engine, list[Answer]()
        self._inbox: asyncio.Queue[tuple[int, Output | ApiError]] = asyncio.Queue()
        self._last: dict[int, float] = {}  # when each got its last tokens
        self.gaps: list[float] = []
        try:
            for job in jobs:
                answer = Answer(
                    self.engine,
                    job.prompt_ids,
                    service.parser(job),
                    job.params,
                    adapter=job.adapter,
                )
                same = next((other for other in self.made if other.prompt_ids == job.prompt_ids), None)
                # Of equal prompts one is computed; the others begin when it is in the cache.
                answer.submit(after=same.request if same else None)
                self.made.append(answer)
        except ChatGLMError as error:
            self.end()
            raise from_ours(error) from error

    async def events(self) -> AsyncIterator[tuple[int, list[Event]]]:
        """The events of each answer as they come, with its place. Every answer then has its `finish_reason`.

        Raises:
            ApiError: the engine could not go on, or somebody had them fail.
        """
        for place, answer in enumerate(self.made):
            self.engine.deliver(answer.request, partial(self._take, place))
        while any(answer.finish_reason is None for answer in self.made):
            arrived = [await self._inbox.get()]
            while not self._inbox.empty():  # whoever reads slowly is told more at once
                arrived.append(self._inbox.get_nowait())
            fresh: dict[int, list[Event]] = {}
            for index, output in arrived:
                if isinstance(output, ApiError):
                    raise output
                fresh.setdefault(index, []).extend(self._fed(index, output))
            for index, events in fresh.items():
                yield index, _joined(events)

    def _fed(self, index: int, output: Output) -> list[Event]:
        answer = self.made[index]
        if answer.finish_reason is not None:
            return []
        try:
            events = answer.feed(output)
        except ChatGLMError as error:
            raise from_ours(error) from error
        if answer.finished:  # at a stop string the engine does not know yet
            self.engine.abort(answer.request)
        return events

    def _take(self, index: int, output: Output) -> None:
        if output.token_ids:
            now, before = time.monotonic(), self._last.get(index)
            self.gaps += [] if before is None else [now - before]
            self._last[index] = now
        self._inbox.put_nowait((index, output))

    def fail(self, error: ApiError) -> None:
        """Break off what is not done: whoever reads the events gets the error."""
        self.end()
        self._inbox.put_nowait((0, error))

    def end(self) -> None:
        """Give up what is not done."""
        for index, answer in enumerate(self.made):
            if not answer.finished:
                self.end_one(index)

    def end_one(self, index: int) -> None:
        """Have no more of one answer made; what it said so far is its end."""
        answer = self.made[index]
        if answer.request is not None:
            self.engine.abort(answer.request)

    async def __aenter__(self) -> Answers:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()


def _joined(events: list[Event]) -> list[Event]:
    """The same events, pieces of text that follow each other as one."""
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            joined[-1] = TextDelta(last.text + event.text)
        else:
            joined.append(event)
    return joined


def _joined_systems(messages: Sequence[Message]) -> list[Message]:
    """Clients send several system messages at the beginning; this model has one."""
    count = next((at for at, message in enumerate(messages) if message.role is not Role.SYSTEM), len(messages))
    if count < 2:
        return list(messages)
    text = "\n\n".join(message.content for message in messages[:count])
    return [replace(messages[0], content=text), *messages[count:]]
