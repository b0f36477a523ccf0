"""The loop: schedule, run, commit. Every request that goes in comes out with a reason why it ended."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from chatglm.engine.adapters import LowRank
from chatglm.engine.ahead import Flight, RunAhead
from chatglm.engine.bad_words import BadWords, TokenTexts
from chatglm.engine.blocks import BlockManager
from chatglm.engine.cache import KVCache, stored_dtype
from chatglm.engine.checks import check_request
from chatglm.engine.config import EngineConfig
from chatglm.engine.draft import Drafter, DraftModel
from chatglm.engine.locking import FairLock
from chatglm.engine.memory import cache_shape, num_blocks
from chatglm.engine.request import (
    FinishReason,
    Output,
    Request,
    SamplingParams,
    Status,
    TokenLogprobs,
    token_ids_of,
    whole,
)
from chatglm.engine.results import Completion, Score, Stats
from chatglm.engine.runner import ModelRunner
from chatglm.engine.sampling import INVALID, Sampled, Sampler
from chatglm.engine.scheduler import Piece, Scheduler
from chatglm.engine.scoring import score
from chatglm.engine.stopping import Decoder, StopStrings
from chatglm.engine.threads import StepThreads, products_are_native
from chatglm.errors import RequestError

_log = logging.getLogger(__name__)


class Engine:
    """Generates for any number of requests at once over one network.

    Any thread may call any method; steps are taken one at a time, and every thread that waits for its own answer
    moves everybody's forward.

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
        self.config = config = config or EngineConfig()
        self.model, self.new_decoder = model, new_decoder
        self.token_texts = lru_cache(maxsize=1)(lambda: TokenTexts(token_texts())) if token_texts else None
        self.context = int(model.config.max_position_embeddings)
        stored = stored_dtype(config.kv_dtype, model.dtype)
        most = self.context * config.max_running
        blocks = num_blocks(model, config.block_size, config.kv_memory, most, stored)
        self.blocks = BlockManager(blocks, config.block_size, config.prefix_cache)
        self.sampler = Sampler(config.num_tokens)
        cache = self._cache_for(model, blocks, stored)
        self.runner = ModelRunner(model, cache, config.block_size, self.sampler, config.attention)
        self.drafter = Drafter(self._drafting(draft_model, blocks))
        max_running = min(config.max_running, config.max_batch_tokens)
        for_prompts = config.max_prompt_tokens or (64 if self.runner.device.type == "cpu" else None)
        self.scheduler = Scheduler(self.blocks, config.max_batch_tokens, max_running, self.drafter, for_prompts)
        self.ahead = self._running_ahead(max_running)
        self._flight: Flight | None = None  # the step that runs already, if there is one
        self.lock = FairLock()
        self._threads = StepThreads(config.num_threads, products_are_native(model))
        self._steps = self._prompt_tokens = self._output_tokens = 0
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
    ) -> Request:
        """Take a request in; it runs from the next step on.

        Args:
            prompt_ids: the prompt.
            params: how to choose tokens; see `SamplingParams`.
            adapter: name of an adapter of `add_adapter`; None answers with the base weights.
            after: begin when that request's prompt is in the cache, to share what is equal.

        Raises:
            RequestError: it could never be carried out: an empty or too long prompt, ids outside the vocabulary, more
                tokens than the cache holds, stop strings without a decoder, an unknown draft or adapter.
        """
        params = params or SamplingParams()
        stop_ids = frozenset(params.stop_token_ids) | (
            frozenset() if params.ignore_eos else frozenset(self.config.stop_token_ids)
        )
        request = Request(token_ids_of(prompt_ids), params, stop_ids, adapter, after)
        check_request(self, request)
        if self.new_decoder is not None:
            request.stops = StopStrings(self.new_decoder(), params.stop)
        if params.bad_words and self.token_texts is not None:
            request.bad_words = BadWords(self.token_texts(), params.bad_words)
        with self.lock:
            self.runner.adapters.require(adapter)
            self.scheduler.add(request)
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
        with self.lock, self.runner.on_device(), self._threads():
            if not self.scheduler.has_work:
                self._flight = None
                return []
            try:
                outputs = self._step()
            except BaseException:  # Ctrl-C: what runs already would be taken for the step that is lost
                self._flight = None
                raise
            self._steps += 1
            self._rest_if_idle()
            return outputs

    def _step(self) -> list[Output]:
        pieces, read = self._begin_step()
        try:
            sampled = read()
        except Exception as error:  # the step is lost, the engine and the other requests are not
            ended = [piece.request for piece in pieces if not piece.request.finished]
            gained = [(request, self._end(request, "error", error=repr(error))) for request in ended]
        else:
            gained = [
                (piece.request, output)
                for piece, tokens in zip(pieces, sampled, strict=True)
                if (output := self._commit(piece, tokens)) is not None
            ]
        for request, output in gained:
            request.outputs.append(output)
        return [output for _, output in gained]

    def _begin_step(self) -> tuple[Sequence[Piece], Callable[[], list[list[Sampled]]]]:
        """The pieces of a step, and what gives their tokens: runs them, or waits for them where they run already."""
        flight, self._flight = self._flight, None
        if flight is None:
            pieces = self.scheduler.schedule()
            if self.ahead is None or not self.ahead.suits(pieces):
                return pieces, lambda: self.runner.run(pieces)
            flight = self.ahead.start(pieces)
        assert self.ahead is not None
        self._flight = self.ahead.follow(flight)
        return flight.pieces, flight.read

    def stream(self, request: Request) -> Iterator[Output]:
        """The request's outputs as they come; the last one has a `finish_reason`. Closing the iterator aborts it."""
        try:
            while True:
                while request.outputs:
                    yield request.outputs.popleft()
                if request.finished:
                    with self.lock:  # the thread that has ended it may be about to hand in its last output
                        rest = list(request.outputs)
                        request.outputs.clear()
                    yield from rest
                    return
                with self.lock:
                    if not request.outputs and not request.finished:  # another thread's step may have brought some
                        self.step()
        finally:
            if not request.finished:
                self.abort(request)

    def generate(self, prompts: Sequence[Sequence[int]], params: SamplingParams | None = None) -> list[Completion]:
        """Answer every prompt; the answers are in the order of the prompts."""
        requests: list[Request] = []
        try:
            for prompt in prompts:
                requests.append(self.submit(prompt, params))
            return [self.wait(request) for request in requests]
        finally:  # one was refused, or Ctrl-C: nobody waits for the others
            for request in requests:
                self.abort(request)

    def wait(self, request: Request) -> Completion:
        """Run until a request is finished."""
        outputs = list(self.stream(request))
        return Completion(
            token_ids=tuple(request.output_ids),
            text="".join(output.text for output in outputs),
            finish_reason=request.finish_reason or "error",
            stop_id=request.stop_id,
            logprobs=tuple(item for output in outputs for item in output.logprobs),
            error=request.error,
        )

    def score(self, prompt_ids: Sequence[int], continuation_ids: Sequence[int], *, adapter: str | None = None) -> Score:
        """How likely the model finds `continuation_ids` after `prompt_ids`.

        Raises:
            RequestError: an empty prompt or continuation, both together longer than the context, an unknown adapter.
            GenerationError: the logits hold NaN.
        """
        with self.lock, self.runner.on_device(), self._threads():
            try:
                return score(self, prompt_ids, continuation_ids, adapter)
            finally:
                self._rest_if_idle()

    def add_adapter(self, name: str, weights: Mapping[str, LowRank]) -> None:
        """Make a LoRA adapter available to requests under `name`.

        Raises:
            RequestError: the name is taken, or the adapter does not fit the network.
        """
        with self.lock:
            self.runner.adapters.add(name, weights)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter and what was computed with it.

        Raises:
            RequestError: there is none of that name, or a request still uses it.
        """
        with self.lock:
            users = [r for r in (*self.scheduler.running, *self.scheduler.waiting) if r.adapter == name]
            if users:
                raise RequestError(f"{len(users)} requests still use adapter {name!r}; wait for them or abort them")
            self.runner.adapters.remove(name)
            self.blocks.forget(name)

    def abort(self, request: Request) -> None:
        """End a request now, with reason "abort"; what it has generated stays readable."""
        with self.lock:
            if not request.finished:
                request.outputs.append(self._end(request, "abort"))
                self._rest_if_idle()

    def stats(self) -> Stats:
        with self.lock:
            return Stats(
                running=len(self.scheduler.running),
                waiting=len(self.scheduler.waiting),
                steps=self._steps,
                prompt_tokens=self._prompt_tokens,
                output_tokens=self._output_tokens,
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
        with self.lock:
            self.blocks.check_integrity(self.scheduler.running)
            assert all(request.status is Status.RUNNING for request in self.scheduler.running)
            assert all(request.status is Status.WAITING for request in self.scheduler.waiting)
            assert all(not request.block_table for request in self.scheduler.waiting)

    def _rest_if_idle(self) -> None:
        if not self.scheduler.has_work:
            self._threads.rest()

    def _commit(self, piece: Piece, sampled: Sequence[Sampled]) -> Output | None:
        """Take over what a piece has computed; None where nothing can be said yet."""
        request = piece.request
        if request.finished:
            return None
        if request.num_output == 0:
            self._prompt_tokens += piece.num_tokens - piece.num_drafts
        if not sampled:
            request.num_computed += piece.num_tokens
            self.blocks.commit(request)
            return None
        accepted = _accepted(request.draft_ids, sampled)
        self.drafter.judged(request, piece.num_drafts, len(accepted) - 1)
        request.draft_ids = []
        request.num_computed = len(request.token_ids) + len(accepted) - 1
        output = self._append(request, accepted)
        if not request.finished:
            self.blocks.shrink(request, len(request.token_ids))
            self.blocks.commit(request)
        return output

    def _append(self, request: Request, accepted: Sequence[Sampled]) -> Output:
        """Add chosen tokens one by one until one of them ends the answer."""
        token_ids: list[int] = []
        logprobs: list[TokenLogprobs] = []
        text = ""
        reason: FinishReason | None = None
        for item in accepted:
            if item.token_id == INVALID:
                return self._end(request, "error", token_ids, text, logprobs, item.error)
            if item.token_id in request.stop_ids:
                request.stop_id, reason = item.token_id, "stop"
                break
            request.token_ids.append(item.token_id)
            token_ids.append(item.token_id)
            logprobs.extend([item.logprobs] if item.logprobs is not None else [])
            self._output_tokens += 1
            if request.stops is not None:
                try:
                    text += request.stops.push(item.token_id)
                except Exception as error:  # the caller's decoder; its request ends alone
                    request.stops = None
                    return self._end(request, "error", token_ids, text, logprobs, f"the decoder failed: {error!r}")
                if request.stops.found:
                    reason = "stop"
                    break
            if len(request.token_ids) >= request.max_total:
                reason = "length"
                break
        if reason is not None:
            return self._end(request, reason, token_ids, text, logprobs)
        return Output(request.request_id, tuple(token_ids), text, tuple(logprobs))

    def _end(
        self,
        request: Request,
        reason: FinishReason,
        token_ids: Sequence[int] = (),
        text: str = "",
        logprobs: Sequence[TokenLogprobs] = (),
        error: str | None = None,
    ) -> Output:
        request.num_computed = min(request.num_computed, len(request.token_ids))
        if request.status is Status.RUNNING and reason != "error":
            self.blocks.commit(request)  # the next turn begins with this one
        if request.stops is not None:
            try:
                text += request.stops.finish()
            except Exception as failure:
                reason, error = "error", f"the decoder failed: {failure!r}"
            if request.stops.found and reason == "length":  # the last bytes made a stop string whole
                reason = "stop"
        self.scheduler.finish(request)
        self.drafter.forget(request)
        request.finish_reason, request.error = reason, error
        return Output(request.request_id, tuple(token_ids), text, tuple(logprobs), reason, error)

    def _cache_for(self, model: Any, blocks: int, stored: torch.dtype) -> KVCache:
        layers, heads, head_dim = cache_shape(model)
        slots = blocks * self.config.block_size
        return KVCache(layers, slots, heads, head_dim, model.dtype, model.device, stored=stored)

    def _running_ahead(self, max_running: int) -> RunAhead | None:
        """Set up steps with fixed shapes, and running ahead, where they are wanted."""
        config, runner = self.config, self.runner
        on_gpu = runner.device.type == "cuda"
        static = config.static_decode
        if static is None:
            static = config.compile or bool(config.run_ahead) or (on_gpu and runner.filling.decode is not None)
        if not static:
            return None
        most_blocks = min(self.blocks.num_blocks, self.blocks.blocks_for(self.context))
        runner.use_static_decode(max_running, most_blocks, config.capture, config.compile)
        ahead = on_gpu if config.run_ahead is None else config.run_ahead
        return RunAhead(runner, self.scheduler) if ahead else None

    def _drafting(self, draft_model: Any, blocks: int) -> DraftModel | None:
        if draft_model is None:
            return None
        sizes = (int(draft_model.config.vocab_size), int(self.model.config.vocab_size))
        if sizes[0] != sizes[1]:
            raise RequestError(f"the draft model has {sizes[0]} tokens and the model {sizes[1]}; they must be equal")
        cache = self._cache_for(draft_model, blocks, draft_model.dtype)
        return DraftModel(draft_model, self.sampler, cache, self.config.block_size, self.config.attention)


def _accepted(draft_ids: Sequence[int], sampled: Sequence[Sampled]) -> list[Sampled]:
    """The sampled tokens up to and including the first that differs from its draft."""
    right = 0
    while right < len(sampled) - 1 and draft_ids[right] == sampled[right].token_id:
        right += 1
    return list(sampled[: right + 1])
