"""vLLM's engine behind this package's interface: the same prompts, parser and server on GPU clusters.

Needs vLLM itself, whose `AsyncLLM` this drives (0.20 or newer); what vLLM has no way to do is refused by name.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from queue import SimpleQueue
from typing import Any

from chatglm.engine.mailbox import Mailboxes
from chatglm.engine.purpose import Pool, likelihoods
from chatglm.engine.request import FinishReason, Output, Request, SamplingParams, Sink, Status, TokenLogprobs
from chatglm.engine.results import Completion, Stats
from chatglm.engine.stopping import Decoder, StopStrings
from chatglm.errors import GenerationError, MissingExtraError, RequestError

_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}
_READY_SECONDS = 600.0  # for vLLM to load a model
_LEAST_LOGIT = -1e4  # a ban that survives vLLM's half precision


class VllmEngine:
    """Fills `Answering` and what a server needs besides. vLLM steps in a process of its own; nobody steps here.

    Args:
        llm: an `AsyncLLM`, or a function that makes one inside a running event loop, which vLLM asks for.
        new_params: makes vLLM's `SamplingParams` of keyword arguments; `new_grammar` its parameters of a Lark grammar.
        context: tokens of a prompt and its answer.
        stop_token_ids: end an answer.
        new_decoder: makes an ids-to-text decoder.
    """

    def __init__(
        self,
        llm: Callable[[], Any],
        *,
        new_params: Callable[..., Any],
        new_grammar: Callable[[str], Any],
        context: int,
        stop_token_ids: Sequence[int] = (),
        new_decoder: Callable[[], Decoder] | None = None,
    ) -> None:
        self._new_params, self._new_grammar = new_params, new_grammar
        self.context, self.stop_token_ids = context, frozenset(stop_token_ids)
        self.new_decoder = new_decoder
        self._mailboxes = Mailboxes()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._counts: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chatglm-vllm", daemon=True)
        self._thread.start()

        async def made() -> Any:
            return llm()

        self.llm = asyncio.run_coroutine_threadsafe(made(), self._loop).result(_READY_SECONDS)

    # the interface

    def start(self) -> VllmEngine:
        """It runs since it was made."""
        return self

    def close(self) -> None:
        """End vLLM, and what is unfinished with reason "abort"."""
        if not self._loop.is_running():
            return
        asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result(60)
        self.llm.shutdown()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    @property
    def failed(self) -> BaseException | None:
        """Why vLLM can do nothing any more."""
        return GenerationError("vLLM's engine has died; its log says why") if self.llm.errored else None

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
        """Take a request in. `after` needs nothing here: vLLM shares equal beginnings by itself.

        Raises:
            GenerationError: vLLM has died. RequestError: what vLLM cannot do, or what does not fit into the context.
        """
        if (error := self.failed) is not None:
            raise error
        params = params or SamplingParams()
        stop_ids = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self.stop_token_ids)
        request = Request(list(prompt_ids), params, stop_ids)
        self._check(request, adapter, pool)
        if params.prompt_logprobs is not None:
            request.purpose = likelihoods(len(request.prompt_ids), scored_from, params.prompt_logprobs)
        request.generates = params.max_tokens != 0
        if self.new_decoder is not None:
            request.stops = StopStrings(self.new_decoder(), params.stop)
        if sink is not None:
            request.sink = sink
        given = self._params(request)
        self._loop.call_soon_threadsafe(self._begin, request, given)
        return request

    def step(self) -> list[Output]:
        """vLLM takes its steps itself.

        Raises:
            RequestError: always.
        """
        raise RequestError("vLLM takes its steps itself; read the answer with stream, astream or wait")

    def stream(self, request: Request) -> Iterator[Output]:
        """The request's outputs as they come; the last one has a `finish_reason`. Closing the iterator aborts it."""
        outputs: SimpleQueue[Output] = SimpleQueue()
        self._redirect(request, outputs.put)
        try:
            while True:
                output = outputs.get()
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            self.abort(request)

    async def astream(self, request: Request) -> AsyncIterator[Output]:
        """`stream` for a task."""
        reader = self._mailboxes.reader()
        self._redirect(request, reader.sink)
        try:
            while True:
                output = await reader.next()
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            self.abort(request)

    def deliver(self, request: Request, take: Callable[[Output], object]) -> None:
        """Have the request's outputs given to `take` by the event loop that runs."""
        self._redirect(request, self._mailboxes.taker(take).sink)

    def wait(self, request: Request) -> Completion:
        """Wait until a request is finished."""
        outputs = list(self.stream(request))
        return Completion(
            token_ids=tuple(request.output_ids),
            decoded=None if self.new_decoder is None else "".join(output.text for output in outputs),
            finish_reason=request.finish_reason or "error",
            stop_id=request.stop_id,
            logprobs=tuple(item for output in outputs for item in output.logprobs),
            error=request.error,
            prompt_logprobs=tuple(item for output in outputs for item in output.prompt_logprobs),
        )

    def abort(self, request: Request) -> None:
        """End a request with reason "abort"; what it has generated stays readable."""
        if not request.finished and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._cancel, request)

    def stats(self) -> Stats:
        """What passes through here; vLLM's own metrics tell of its cache and its steps."""
        counts = self._counts
        return Stats(
            running=len(self._tasks), waiting=0, finished=counts["finished"], steps=counts["steps"],
            prompt_tokens=counts["prompt"], output_tokens=counts["output"],
            cache_tokens=0, cache_bytes=0, cache_tokens_free=0,
            prefix_tokens_queried=counts["prompt"], prefix_tokens_hit=counts["hit"],
            evictions=0, preemptions=0, drafts_proposed=0, drafts_accepted=0,
        )  # fmt: skip

    # to vLLM

    def _check(self, request: Request, adapter: str | None, pool: Pool | None) -> None:
        params, room = request.params, self.context - len(request.prompt_ids)
        constraint = params.constraint
        asked = {
            "adapter": adapter is not None,
            "pool (embeddings)": pool is not None,
            "hook": params.hook is not None,
            "draft": params.draft not in (None, "auto"),
            "bad_words_ids": bool(params.bad_words_ids),
            "a constraint without a grammar": constraint is not None and not hasattr(constraint, "lark"),
        }
        if refused := [name for name, wanted in asked.items() if wanted]:
            raise RequestError(f"the vllm engine has no {refused[0]}; leave it out, or use this package's engine")
        if room < 1 or (params.max_tokens or 0) > room:
            raise RequestError(
                f"the prompt has {len(request.prompt_ids)} tokens and the model's context is {self.context}, "
                "the answer included"
            )
        request.max_total = len(request.prompt_ids) + min(room, params.max_tokens or room)

    def _params(self, request: Request) -> Any:
        params, constraint = request.params, request.params.constraint
        given: dict[str, Any] = {
            "temperature": params.temperature, "top_p": params.top_p, "top_k": params.top_k, "min_p": params.min_p,
            "repetition_penalty": params.repetition_penalty, "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty, "seed": request.seed, "min_tokens": params.min_tokens,
            "max_tokens": max(1, request.max_total - len(request.prompt_ids)) if request.generates else 1,
            "stop_token_ids": sorted(request.stop_ids), "ignore_eos": True,  # stops are told one by one
            "logprobs": params.logprobs, "prompt_logprobs": params.prompt_logprobs, "detokenize": False,
        }  # fmt: skip
        if params.logit_bias:
            given["logit_bias"] = {key: max(bias, _LEAST_LOGIT) for key, bias in params.logit_bias.items()}
        if params.bad_words:
            given["bad_words"] = list(params.bad_words)
        if constraint is not None:
            given["structured_outputs"] = self._new_grammar(getattr(constraint, "lark", ""))
        return self._new_params(**given)

    # inside the loop

    def _begin(self, request: Request, params: Any) -> None:
        task = self._loop.create_task(self._answer(request, params))
        self._tasks[request.request_id] = task
        task.add_done_callback(lambda _: self._end(request))
        request.status = Status.RUNNING
        request.times.admitted = time.monotonic()

    async def _answer(self, request: Request, params: Any) -> None:
        prompt = {"prompt_token_ids": request.prompt_ids}
        try:
            async with aclosing(self.llm.generate(prompt, params, f"chatglm-{request.request_id}")) as answer:
                async for told in answer:
                    self._counts["steps"] += 1
                    if self._take(request, told):
                        return
            self._hand_out(request, (), reason="error", error="vLLM gave no end")
        except asyncio.CancelledError:
            self._hand_out(request, (), reason="abort")
        except Exception as error:  # of vLLM, whatever it is: this request's alone
            self._hand_out(request, (), reason="error", error=repr(error))

    def _end(self, request: Request) -> None:
        """The task is over. One that was cancelled before its first step has told nobody."""
        self._tasks.pop(request.request_id, None)
        if not request.finished:
            self._hand_out(request, (), reason="abort")

    def _take(self, request: Request, told: Any) -> bool:
        """One of vLLM's outputs, which tells only what is new -> whether it was the last."""
        made = told.outputs[0]
        ids, reason = list(made.token_ids), _REASONS.get(made.finish_reason or "")
        logprobs = [_logprobs(*pair) for pair in zip(ids, made.logprobs or (), strict=False)]
        asked = self._asked_of_prompt(request, told)
        if not request.generates:
            ids, logprobs = [], []
        if reason == "stop" and ids and ids[-1] in request.stop_ids:
            request.stop_id = ids.pop()
        return self._hand_out(request, tuple(ids), tuple(logprobs[: len(ids)]), asked, reason)

    def _asked_of_prompt(self, request: Request, told: Any) -> tuple[TokenLogprobs, ...]:
        """What is told once, with the first output: hits in the cache, and likelihoods of the prompt."""
        if request.times.first_token is not None:
            return ()
        request.times.first_token = time.monotonic()
        request.num_cached = told.num_cached_tokens or 0
        self._counts.update(prompt=len(request.prompt_ids), hit=request.num_cached)
        if request.purpose is None or told.prompt_logprobs is None:
            return ()
        first = request.purpose.next_state + 1
        pairs = zip(request.prompt_ids[first:], told.prompt_logprobs[first:], strict=True)
        return tuple(_logprobs(*pair) for pair in pairs)

    def _hand_out(
        self,
        request: Request,
        ids: tuple[int, ...],
        logprobs: tuple[TokenLogprobs, ...] = (),
        prompt_logprobs: tuple[TokenLogprobs, ...] = (),
        reason: FinishReason | None = None,
        error: str | None = None,
    ) -> bool:
        """Write down what has come, and tell it -> whether the request has ended with it."""
        kept, text = self._until_stop(request, ids)
        if request.stops is not None and request.stops.found:
            reason = "stop"
        elif reason is not None and request.stops is not None:
            text += request.stops.finish()
        request.token_ids += kept
        request.times.last_token = time.monotonic()
        self._counts["output"] += len(kept)
        if reason is not None:
            request.status, request.finish_reason, request.error = Status.FINISHED, reason, error
            self._counts["finished"] += 1
        request.sink(
            Output(
                request.request_id, kept, text, logprobs[: len(kept)], reason, error, prompt_logprobs=prompt_logprobs
            )
        )
        self._mailboxes.ring()
        return reason is not None

    @staticmethod
    def _until_stop(request: Request, ids: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
        """The tokens to the end of a stop string, and their text."""
        if request.stops is None:
            return ids, ""
        texts: list[str] = []
        for count, token_id in enumerate(ids, 1):
            texts.append(request.stops.push(token_id))
            if request.stops.found:
                return ids[:count], "".join(texts)
        return ids, "".join(texts)

    def _redirect(self, request: Request, sink: Sink) -> None:
        def redirect() -> None:
            while request.outputs:
                sink(request.outputs.popleft())
            request.sink = sink
            self._mailboxes.ring()

        self._loop.call_soon_threadsafe(redirect)

    def _cancel(self, request: Request) -> None:
        task = self._tasks.get(request.request_id)
        if task is not None:
            task.cancel()

    async def _end_all(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _logprobs(token_id: int, told: Mapping[int, Any]) -> TokenLogprobs:
    """Of the chosen token, and of the likeliest; vLLM tells the chosen one among them."""
    ranked = sorted(told.items(), key=lambda item: item[1].rank or math.inf)
    chosen = told[token_id]
    most = len(told) - (0 if chosen.rank is not None and chosen.rank < len(told) else 1)
    return TokenLogprobs(token_id, chosen.logprob, tuple((key, value.logprob) for key, value in ranked[:most]))


def open_vllm(folder: str, tokenizer: Any, new_decoder: Callable[[], Decoder], **options: Any) -> VllmEngine:
    """vLLM over a folder it can read: of ChatGLM3, or exported by `chatglm convert --to glm`.

    Args:
        folder: the model.
        tokenizer: ours, for the stop tokens.
        new_decoder: makes its ids-to-text decoder.
        options: of vLLM's `AsyncEngineArgs`, such as `tensor_parallel_size`.

    Raises:
        MissingExtraError: vLLM is not installed.
    """
    try:
        from vllm import SamplingParams as TheirParams
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError:
        raise MissingExtraError("vllm", "vllm", "--engine vllm") from None
    # Our grammars are llguidance's, which vLLM calls "guidance".
    settings = {"structured_outputs_config": {"backend": "guidance"}, "skip_tokenizer_init": False, **options}
    args = AsyncEngineArgs(model=folder, **settings)
    context = int(args.create_engine_config().model_config.max_model_len)
    return VllmEngine(
        lambda: AsyncLLM.from_engine_args(args),
        new_params=lambda **given: TheirParams(output_kind=RequestOutputKind.DELTA, **given),
        new_grammar=lambda lark: StructuredOutputsParams(grammar=lark),
        context=context,
        stop_token_ids=tuple(tokenizer.stop_ids),
        new_decoder=new_decoder,
    )
