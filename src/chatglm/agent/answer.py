"""One answer: prompt ids in, events out. The one way to ask an engine, for whoever reads the answer and however."""

import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import aclosing, closing
from dataclasses import replace
from typing import Any

from chatglm.chat.message import Done, Event, Message
from chatglm.chat.parser import Segment, StreamParser
from chatglm.engine.request import Output, Request, SamplingParams, TokenLogprobs
from chatglm.engine.stopping import AnswerStops
from chatglm.errors import GenerationError


def seeded(params: SamplingParams, number: int) -> SamplingParams:
    """The settings for one answer of a conversation: with a seed, each answer has the seed after the one before.

    The one rule for seeds: answers are counted from 0 through a session, those that call tools, and those that were
    taken back or answered again, included. So a conversation can be repeated, and answering again says something else.
    """
    return params if params.seed is None else replace(params, seed=(params.seed + number) % 2**63)


class Answer:
    """The answer to a prompt, while it is made.

    Iterating it runs the engine and gives the parser's events, the last of them `Done`, whose reason is "stop",
    "length" or "abort". Leaving the iteration ends the request. On an event loop `async for` does the same without a
    thread for each answer, where the engine has one of its own. Who is handed the engine's outputs in another way calls
    `submit`, then `feed` with each output, and has the engine abort `request` once the answer is `finished`: a stop
    string ends it before the engine knows.

    Args:
        engine: anything with `submit` and `stream` as `chatglm.engine.Engine` has them, and `astream` for `async for`.
        prompt_ids: what is answered.
        parser: reads the tokens; what it takes for stop tokens ends the answer.
        params: how tokens are chosen. Its stop strings are looked for here, where it is known what is text, and not by
            the engine; its stop tokens count besides the parser's, or alone with `ignore_eos`.
        stopped: asked after every step; once true the answer ends.
        adapter: name of an adapter of the engine.
        tokens: token ids from somewhere else than the engine, which is not asked then. Without a stop token at their
            end the reason is "length".
    """

    def __init__(
        self,
        engine: Any,
        prompt_ids: list[int],
        parser: StreamParser,
        params: SamplingParams,
        *,
        stopped: Callable[[], bool] = lambda: False,
        adapter: str | None = None,
        tokens: Iterable[int] | None = None,
    ) -> None:
        self.engine, self.prompt_ids, self.parser, self.adapter = engine, prompt_ids, parser, adapter
        self._stopped, self._tokens = stopped, tokens
        parser.stop_ids = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else parser.stop_ids)
        self._stops = parser.decoder = AnswerStops(parser.decoder, params.stop)
        self.params = replace(params, stop_token_ids=sorted(parser.stop_ids), stop=())
        self.request: Request | None = None
        self.token_ids: list[int] = []  # the stop token included
        self.logprobs: list[TokenLogprobs] = []
        self.prompt_logprobs: list[TokenLogprobs] = []  # of the prompt's tokens from the second on, where asked for
        self.finish_reason: str | None = None
        self.first_token_seconds: float | None = None  # since it was asked for
        self._began = self._last_token = time.monotonic()

    # what it came to

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_ids)

    @property
    def new_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def writing_seconds(self) -> float:
        """From the first token to the last."""
        first = self.first_token_seconds
        return 0.0 if first is None else self._last_token - self._began - first

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended it, if one did."""
        return self._stops.word

    @property
    def segments(self) -> list[Segment]:
        """The finished segments, and after the end all."""
        return self.parser.segments

    def messages(self) -> list[Message]:
        """What was said, one message for each segment, with its ids; without ids where a stop string was cut off.

        Right at any moment, also after the iteration was left in the middle; an answer that still goes on ends here.
        """
        self.finish()
        said = [segment.message() for segment in self.segments if segment.ids]
        return [*said[:-1], replace(said[-1], ids=None)] if said and self._stops.found else said

    def calls(self) -> list[Segment]:
        """What is to be carried out; nothing where a stop string has cut a call short."""
        cut_short = self._stops.found and self.segments[-1].kind != "text"
        return [] if cut_short else [segment for segment in self.segments if segment.kind != "text" and segment.ids]

    # making it

    def submit(self, **options: Any) -> Request:
        """Ask the engine; the options go to its `submit` besides."""
        if self.adapter is not None:
            options["adapter"] = self.adapter
        self._began = time.monotonic()
        request: Request = self.engine.submit(self.prompt_ids, self.params, **options)
        self.request = request
        return request

    def feed(self, output: Output) -> list[Event]:
        """The events of one output of the engine; none once the answer is finished.

        Raises:
            GenerationError: the engine could not go on.
        """
        events: list[Event] = []
        self.prompt_logprobs += output.prompt_logprobs
        for index, token_id in enumerate(output.token_ids):
            if self.finished:
                return events
            self.logprobs += output.logprobs[index : index + 1]
            events += self._push(token_id)
        if output.finish_reason == "error":
            self.finish("error")
            raise GenerationError(f"generation failed after {self.new_tokens} tokens: {output.error}")
        if output.finish_reason is not None and not self.finished:
            stop_id = self.request.stop_id if self.request is not None else None
            if stop_id is not None:
                self.parser.stop_ids |= {stop_id}  # the engine may have stop tokens of its own; they are no text
                events += self._push(stop_id)
            events += self.finish(output.finish_reason)
        return events

    def finish(self, reason: str = "abort") -> list[Event]:
        """The last events, `Done` among them; none where the answer is finished already."""
        events = self.parser.finish(reason)
        if self._stops.found and events:
            reason, events = "stop", [*events[:-1], Done("stop", self.parser.stop_id)]
        self.finish_reason = self.finish_reason or reason
        return events

    def _push(self, token_id: int) -> list[Event]:
        self._last_token = time.monotonic()
        if self.first_token_seconds is None:
            self.first_token_seconds = self._last_token - self._began
        self.token_ids.append(token_id)
        events = self.parser.feed(token_id)
        if self._stops.found or self.parser.stop_id is not None:
            events += self.finish("stop")
        return events

    def __iter__(self) -> Generator[Event, None, None]:
        last: list[Event] = []
        try:
            with closing(self._outputs()) as outputs:
                for output in outputs:
                    yield from self.feed(output)
                    if self.finished or self._stopped():
                        break
        finally:
            last = self.finish()
        yield from last

    async def __aiter__(self) -> AsyncGenerator[Event, None]:
        last: list[Event] = []
        try:
            async with aclosing(self.engine.astream(self.submit())) as outputs:
                async for output in outputs:
                    for event in self.feed(output):
                        yield event
                    if self.finished or self._stopped():
                        break
        finally:
            last = self.finish()
        for event in last:
            yield event

    def _outputs(self) -> Any:
        """A generator of outputs; closing it ends what makes them."""
        return self.engine.stream(self.submit()) if self._tokens is None else self._outputs_of(self._tokens)

    def _outputs_of(self, tokens: Iterable[int]) -> Generator[Output, None, None]:
        self._began = time.monotonic()
        try:
            for token_id in tokens:
                yield Output(0, (token_id,))
            yield Output(0, (), finish_reason="abort" if self._stopped() else "length")
        finally:
            if isinstance(tokens, Generator):
                tokens.close()
