"""The engine as its callers see it: requests go in, outputs come out; who steps is a matter of `loop.py`."""

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from queue import SimpleQueue
from typing import Any

from chatglm.engine import parts
from chatglm.engine.adapters import LowRank
from chatglm.engine.bad_words import BadWords, TokenTexts
from chatglm.engine.blocks import BlockManager
from chatglm.engine.cache import stored_dtype
from chatglm.engine.checks import Limits
from chatglm.engine.config import EngineConfig
from chatglm.engine.draft import Drafter
from chatglm.engine.interface import answers_of
from chatglm.engine.ledger import Ledger
from chatglm.engine.loop import StepLoop
from chatglm.engine.mailbox import Mailboxes
from chatglm.engine.memory import num_blocks, tokens_of_a_step
from chatglm.engine.purpose import POOLS, Pool, likelihoods, pooled
from chatglm.engine.request import Output, Request, SamplingParams, Sink, Status, token_ids_of, whole
from chatglm.engine.results import Completion, Score, Stats
from chatglm.engine.runner import ModelRunner
from chatglm.engine.sampling import Sampler
from chatglm.engine.scheduler import Scheduler
from chatglm.engine.scoring import embed, score_many
from chatglm.engine.stopping import Decoder, StopStrings
from chatglm.engine.threads import StepThreads, products_are_native
from chatglm.errors import GenerationError, RequestError

WARM_LENGTHS = (2, 16, 64, 512)  # of prompts: kernels choose their shapes by the number of tokens
_log = logging.getLogger(__name__)


class Engine:
    """Generates for any number of requests at once over one network.

    Any thread may call any method. Steps are taken one at a time: by the engine's own thread between `start` and
    `close` (`with engine:`), else by whoever waits for an answer, which moves everybody's forward.

    Args:
        model: a network of this package, or stock GLM. It is run without dropout and left as it is.
        config: limits; see `EngineConfig`.
        new_decoder: makes an ids-to-text decoder; needed for stop strings and for `Output.text`.
        token_texts: tells the bytes each token adds to a text; called when `bad_words` first need it.
        draft_model: a smaller network with the same vocabulary, for requests with `draft="model"`.
    """

    def __init__(
        self,
        model: Any,
        config: EngineConfig | None = None,
        new_decoder: Callable[[], Decoder] | None = None,
        token_texts: Callable[[], Sequence[bytes]] | None = None,
        draft_model: Any = None,
    ) -> None:
        parts.check(model, config)
        self.config = config = parts.config_for(model, config)
        batch_tokens = config.max_batch_tokens or tokens_of_a_step(model)
        self.model, self.new_decoder = model, new_decoder
        self.token_texts = lru_cache(maxsize=1)(lambda: TokenTexts(token_texts())) if token_texts else None
        self.context = int(model.config.max_position_embeddings)
        known = config.stop_token_ids
        self.stop_token_ids = frozenset(parts.stop_ids_of(model) if known is None else token_ids_of(known))
        stored = stored_dtype(config.kv_dtype, model.dtype)
        most = self.context * config.max_running
        blocks = num_blocks(
            model, config.block_size, config.kv_memory, most, stored, (batch_tokens, config.max_running)
        )
        self.blocks = BlockManager(blocks, config.block_size, config.prefix_cache)
        self.sampler = Sampler(config.num_tokens)
        cache = parts.new_cache(model, blocks, config.block_size, stored)
        self.runner = ModelRunner(model, cache, config.block_size, self.sampler, config.attention)
        native_products, whole_prompts = products_are_native(model), parts.whole_prompts(model)
        by_itself = native_products and not whole_prompts and self.runner.filling.name == "native"
        fixed = config.static_decode or config.run_ahead or config.compile  # such steps have no place for guesses
        self.drafter = Drafter(parts.draft_model_for(self.runner, draft_model, blocks, config), by_itself and not fixed)
        max_running = min(config.max_running, batch_tokens)
        for_prompts = config.max_prompt_tokens or (64 if self.runner.device.type == "cpu" else min(2048, batch_tokens))
        self.scheduler = Scheduler(self.blocks, batch_tokens, max_running, self.drafter, for_prompts, whole_prompts)
        self.ahead = parts.run_ahead_for(self.runner, self.scheduler, config, self.context)
        threads = StepThreads(config.num_threads, native_products)
        self.ledger = Ledger(self.scheduler, self.blocks, self.drafter)
        self.loop = StepLoop(self.scheduler, self.runner, self.ledger, self.ahead, threads)
        self.limits = Limits(
            int(model.config.vocab_size), self.context, self.blocks.num_tokens,
            new_decoder is not None, token_texts is not None, draft_model is not None,
        )  # fmt: skip
        self._mailboxes = Mailboxes()
        self.loop.handed_out = self._mailboxes.ring
        _log.info(
            "cache of %d tokens in %s, %.2f GB; attention %s",
            self.blocks.num_tokens, cache.stored, cache.nbytes / 1e9, self.runner.filling.name,
        )  # fmt: skip

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        after: Request | None = None,
        sink: Sink | None = None,
        pool: Pool | None = None,
        scored_from: int = 1,
    ) -> Request:
        """Take a request in; it runs from the next step on.

        Args:
            prompt_ids: the prompt.
            params: how to choose tokens; see `SamplingParams`.
            adapter: name of an adapter of `add_adapter`; None answers with the base weights.
            after: begin when that request's prompt is in the cache, to share what is equal.
            pool: give `Output.embedding` instead of an answer; see `embed`.
            scored_from: with `prompt_logprobs`, the first token of the prompt to give them for.
            sink: called with each `Output` by the thread that steps, between two steps; nobody else reads them then.

        Raises:
            GenerationError: the engine has failed.
            RequestError: it could never be carried out: an empty or too long prompt, ids outside the vocabulary, more
                tokens than the cache holds, stop strings without a decoder, an unknown draft or adapter.
        """
        params = params or SamplingParams()
        stop_ids = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self.stop_token_ids)
        request = Request(token_ids_of(prompt_ids), params, stop_ids, adapter, after)
        if pool is not None:
            if pool not in POOLS or params.prompt_logprobs is not None:
                raise RequestError(f'pool is {pool!r}; it must be "last" or "mean", and goes without prompt_logprobs')
            request.purpose = pooled(len(request.prompt_ids), pool)
        elif params.prompt_logprobs is not None:
            request.purpose = likelihoods(len(request.prompt_ids), scored_from, params.prompt_logprobs)
        request.generates = pool is None and params.max_tokens != 0
        self.limits.check(request)
        self.runner.check_prompt(request)
        if self.new_decoder is not None:
            request.stops = StopStrings(self.new_decoder(), params.stop)
        if params.bad_words and self.token_texts is not None:
            request.bad_words = BadWords(self.token_texts(), params.bad_words)
        if sink is not None:
            request.sink = sink
        self.loop.add(request)
        return request

    def submit_many(
        self, prompt_ids: Sequence[int], params: SamplingParams, n: int, *, adapter: str | None = None
    ) -> list[Request]:
        """`n` answers to one prompt, which is computed once; their seeds are the request's and those after it."""
        if not whole(n, 1):
            raise RequestError(f"n is {n!r}; it must be a whole number of at least 1")
        first = self.submit(prompt_ids, params, adapter=adapter)
        rest = [replace(params, seed=first.seed + index) for index in range(1, n)]
        return [first, *(self.submit(prompt_ids, other, adapter=adapter, after=first) for other in rest)]

    def step(self) -> list[Output]:
        """Run one step; what each request gained from it."""
        return self.loop.step()

    def start(self) -> "Engine":
        """Have a thread of the engine's own take the steps from now on, until `close`.

        Also done by `with engine:`. Needed by `astream`, and where many threads read.
        """
        self.loop.start()
        return self

    def warm_up(self) -> "Engine":
        """Let everything that compiles, tunes itself or is recorded when it first runs do so now, not in the first
        requests: every size of decode step, and prompts of several lengths. Minutes on a GPU, moments on a CPU.

        Raises:
            GenerationError: the engine has failed, or does so now.
        """
        most = min(self.scheduler.max_batch_tokens, self.context - 2)
        lengths = sorted({min(length, most) for length in (most, *WARM_LENGTHS)}, reverse=True)

        def run() -> None:
            with self.runner.on_device():
                self.runner.warm_up(self.blocks, lengths)

        if self.failed is not None:
            raise GenerationError(f"the engine has failed and cannot be warmed up: {self.failed!r}")
        self.loop.turns.ask(run)
        return self

    def close(self) -> None:
        """End that thread after the step it is at, and what is unfinished with reason "abort"."""
        self.loop.close()

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def failed(self) -> BaseException | None:
        """Why the engine can do nothing any more: its requests have ended with an error, new ones are refused."""
        return self.loop.failed

    def stream(self, request: Request) -> Iterator[Output]:
        """The request's outputs as they come; the last one has a `finish_reason`. Closing the iterator aborts it."""
        try:
            yield from self._read(request) if self.loop.worker is None else self._read_from_worker(request)
        finally:
            self.abort(request)

    async def astream(self, request: Request) -> AsyncIterator[Output]:
        """`stream` for a task: any number of them read in one event loop, without a thread for each.

        Raises:
            RequestError: no thread takes the steps; see `start`.
        """
        self._check_worker("astream")
        reader = self._mailboxes.reader()
        self.loop.redirect(request, reader.sink)
        try:
            while True:
                output = await reader.next()
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            self.abort(request)

    def deliver(self, request: Request, take: Callable[[Output], object]) -> None:
        """Have the request's outputs given to `take` by the event loop that runs; nobody else reads them then.

        What `astream` does without a task that waits, for whoever reads many requests. The last output has a
        `finish_reason`; whoever wants no more aborts the request.

        Raises:
            RequestError: no thread takes the steps; see `start`.
        """
        self._check_worker("deliver")
        self.loop.redirect(request, self._mailboxes.taker(take).sink)

    def _check_worker(self, name: str) -> None:
        if self.loop.worker is None:
            raise RequestError(f"{name} reads what the engine's own thread computes; call engine.start() first")

    def _read(self, request: Request) -> Iterator[Output]:
        if request.sink != request.outputs.append:  # it was read in another way before
            self.loop.redirect(request, request.outputs.append)
        while True:
            finished = request.finished
            if finished:  # whoever has ended it may be about to hand its last output out
                self.loop.turns.ask(self.loop.hand_out)
            while request.outputs:
                yield request.outputs.popleft()
            if finished:
                return
            self.loop.step_unless(lambda: bool(request.outputs) or request.finished)

    def _read_from_worker(self, request: Request) -> Iterator[Output]:
        outputs: SimpleQueue[Output] = SimpleQueue()
        self.loop.redirect(request, outputs.put)
        while True:
            output = outputs.get()
            yield output
            if output.finish_reason is not None:
                return

    def generate(self, prompts: Sequence[Sequence[int]], params: SamplingParams | None = None) -> list[Completion]:
        """Answer every prompt; the answers are in the order of the prompts."""
        return answers_of(self, (self.submit(prompt, params) for prompt in prompts))

    def wait(self, request: Request) -> Completion:
        """Run until a request is finished."""
        outputs = list(self.stream(request))
        return Completion(
            token_ids=tuple(request.output_ids),
            decoded=None if self.new_decoder is None else "".join(output.text for output in outputs),
            finish_reason=request.finish_reason or "error",
            stop_id=request.stop_id,
            logprobs=tuple(item for output in outputs for item in output.logprobs),
            error=request.error,
            prompt_logprobs=tuple(item for output in outputs for item in output.prompt_logprobs),
            embedding=outputs[-1].embedding if outputs else None,
        )

    def score(self, prompt_ids: Sequence[int], continuation_ids: Sequence[int], *, adapter: str | None = None) -> Score:
        """How likely the model finds `continuation_ids` after `prompt_ids`; see `score_many`."""
        return self.score_many([(prompt_ids, continuation_ids)], adapter=adapter)[0]

    def score_many(
        self, pairs: Iterable[tuple[Sequence[int], Sequence[int]]], *, adapter: str | None = None
    ) -> list[Score]:
        """How likely the model finds each continuation after its prompt; `pairs` of both.

        Raises:
            RequestError: an empty prompt or continuation, both together longer than the context, an unknown adapter.
            GenerationError: the logits hold NaN.
        """
        return score_many(self, pairs, adapter)

    def embed(
        self, prompts: Sequence[Sequence[int]], pool: Pool = "last", *, adapter: str | None = None
    ) -> list[tuple[float, ...]]:
        """A vector [hidden] for every prompt: the state of its last token, or the mean of all its states.

        A state is what the network makes of a token, after the final norm and before the head.

        Raises:
            GenerationError: the network failed.
        """
        return embed(self, prompts, pool, adapter)

    def add_adapter(self, name: str, weights: Mapping[str, LowRank]) -> None:
        """Make a LoRA adapter available to requests under `name`.

        Raises:
            RequestError: the name is taken, or the adapter does not fit the network.
        """
        self.loop.turns.ask(lambda: self.runner.adapters.add(name, weights))

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter and what was computed with it.

        Raises:
            RequestError: there is none of that name, or a request still uses it.
        """

        def remove() -> None:
            users = [r for r in (*self.scheduler.running, *self.scheduler.waiting) if r.adapter == name]
            if users:
                raise RequestError(f"{len(users)} requests still use adapter {name!r}; wait for them or abort them")
            self.runner.adapters.remove(name)
            self.blocks.forget(name)

        self.loop.turns.ask(remove)

    def abort(self, request: Request) -> None:
        """End a request with reason "abort": now, or after the step that runs; what it has generated stays readable."""
        self.loop.abort(request)

    def stats(self) -> Stats:
        """Counters, read without waiting for the step that runs."""
        return Stats(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            finished=self.ledger.finished,
            steps=self.loop.steps,
            prompt_tokens=self.ledger.prompt_tokens,
            output_tokens=self.ledger.output_tokens,
            cache_tokens=self.blocks.num_tokens,
            cache_bytes=self.runner.cache.nbytes,
            cache_tokens_free=self.blocks.num_free * self.blocks.block_size,
            prefix_tokens_queried=self.blocks.queried_tokens,
            prefix_tokens_hit=self.blocks.hit_tokens,
            evictions=self.blocks.evictions,
            preemptions=self.scheduler.num_preemptions,
            drafts_proposed=self.drafter.num_proposed,
            drafts_accepted=self.drafter.num_accepted,
        )

    def check_integrity(self) -> None:
        """Assert that queues, block tables and free lists agree."""

        def check() -> None:
            self.blocks.check_integrity(self.scheduler.running)
            assert all(request.status is Status.RUNNING for request in self.scheduler.running)
            assert all(request.status is Status.WAITING for request in self.scheduler.waiting)
            assert all(not request.block_table for request in self.scheduler.waiting)

        self.loop.turns.ask(check)
