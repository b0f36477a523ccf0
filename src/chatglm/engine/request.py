"""What a request is: sampling settings, progress, and the outputs it hands out. No tensors."""

import itertools
import math
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from numbers import Integral, Real
from operator import index
from typing import Any, Literal, Protocol

from chatglm.engine.bad_words import BadWords
from chatglm.engine.constraint import Constraint, Told
from chatglm.engine.purpose import Purpose
from chatglm.engine.stopping import StopStrings
from chatglm.engine.token_counts import TokenCounts
from chatglm.errors import RequestError

FinishReason = Literal["stop", "length", "abort", "error"]


class LogitsHook(Protocol):
    """Changes one request's logits before sampling. What only says which tokens may come is better a `Constraint`.

    Called with the ids generated so far and the request's logits, a float32 tensor [vocab] it may change in place.
    With drafts it is called for answers that may yet turn out otherwise, so what it does must follow from `output_ids`.
    """

    def __call__(self, output_ids: Sequence[int], logits: Any) -> None: ...


_DRAFTS = ("auto", "lookup", "model")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of one request are chosen.

    Args:
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_p: keep the smallest set of most likely tokens whose probabilities reach this sum.
        top_k: keep this many most likely tokens; 0 keeps all.
        min_p: keep tokens at least this fraction as likely as the most likely one.
        repetition_penalty: above 1 makes tokens of the prompt and the answer less likely (arXiv:1909.05858).
        presence_penalty, frequency_penalty: subtracted from the logits of tokens of the answer, once or per use.
        logit_bias: added to the logits of single tokens.
        bad_words: texts that must not appear in the answer, in whatever tokens.
        bad_words_ids: token sequences that must not appear in the answer.
        seed: same seed, same tokens, whatever else is in the batch. None: a fresh seed, kept in `Request.seed`.
        stop_token_ids: end the answer; not part of it.
        stop: texts that end the answer; neither they nor what follows is part of it.
        ignore_eos: do not stop at the model's own stop tokens.
        min_tokens: no stop token before this many; a stop string ends the answer all the same.
        max_tokens: at most this many; None: as many as the context holds.
        logprobs: log-probabilities of the chosen token and this many most likely ones.
        prompt_logprobs: the same of the prompt's tokens, from the second on; they are computed for it, not taken from
            the cache. With it `max_tokens` may be 0: nothing is answered then.
        draft: "lookup" proposes tokens copied from earlier text, "model" asks the draft model, None neither. "auto":
            the engine looks up where that cannot cost much, see `draft.Drafter`. Answers are the same in all cases.
        hook: changes the logits in any way.
        constraint: makes what says before each token which ones may come, a new one for each request; see `Constraint`.

    Raises:
        RequestError: a value out of range, naming it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: Sequence[str] = ()
    bad_words_ids: Sequence[Sequence[int]] = ()
    seed: int | None = None
    stop_token_ids: Sequence[int] = ()
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    max_tokens: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    draft: Literal["auto", "lookup", "model"] | None = "auto"
    hook: LogitsHook | None = None
    constraint: Callable[[], Constraint] | None = None

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_counts()
        for name in ("stop", "bad_words"):
            _require(_texts(getattr(self, name)), name, getattr(self, name), "a list of texts, none empty")
        _require(_ids_all(self.stop_token_ids), "stop_token_ids", self.stop_token_ids, "a list of token ids")
        words: Any = self.bad_words_ids
        listed = isinstance(words, Collection) and all(_ids_all(word) and len(word) for word in words)
        _require(listed, "bad_words_ids", words, "a list of non-empty lists of token ids")
        _require(
            isinstance(self.logit_bias, Mapping) and _ids_all(self.logit_bias)
            and all(_number(bias) and bias < math.inf for bias in self.logit_bias.values()),
            "logit_bias", self.logit_bias, "a number for each token id, -inf to ban one",
        )  # fmt: skip
        _require(self.draft in (None, *_DRAFTS), "draft", self.draft, 'None, "auto", "lookup" or "model"')
        for name in ("hook", "constraint"):
            value = getattr(self, name)
            _require(value is None or callable(value), name, value, "None or a function")

    def _check_numbers(self) -> None:
        for name, least, most, right in (
            ("temperature", 0, sys.float_info.max, "0 or more"),
            ("top_p", sys.float_info.min, 1, "above 0 and at most 1"),
            ("min_p", 0, 1, "between 0 and 1"),
            ("repetition_penalty", sys.float_info.min, sys.float_info.max, "above 0"),
            ("presence_penalty", -2, 2, "between -2 and 2"),
            ("frequency_penalty", -2, 2, "between -2 and 2"),
        ):
            value = getattr(self, name)
            _require(_number(value) and least <= float(value) <= most, name, value, right)

    def _check_counts(self) -> None:
        _require(whole(self.top_k, 0), "top_k", self.top_k, "a whole number of 0 (off) or more")
        _require(whole(self.min_tokens, 0), "min_tokens", self.min_tokens, "a whole number of 0 or more")
        _require(self.seed is None or whole(self.seed), "seed", self.seed, "None or a whole number")
        if self.max_tokens is not None:
            least, right = (1, "1 or more") if self.prompt_logprobs is None else (0, "0 or more")
            _require(whole(self.max_tokens, least), "max_tokens", self.max_tokens, f"None or a whole number of {right}")
            _require(self.min_tokens <= self.max_tokens, "min_tokens", self.min_tokens, "at most max_tokens")
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            right = "None or a whole number between 0 and 20"
            _require(value is None or (whole(value, 0) and value <= 20), name, value, right)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def whole(value: Any, least: float = -math.inf) -> bool:
    """Whether a value is a whole number, and not below `least`."""
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least


def _number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and not math.isnan(value)


def _texts(values: object) -> bool:
    return (
        isinstance(values, Collection)
        and not isinstance(values, (str, bytes))
        and all(isinstance(value, str) and value for value in values)
    )


def _ids_all(values: object) -> bool:
    return (
        isinstance(values, Collection)
        and not isinstance(values, (str, bytes))
        and all(whole(value, 0) for value in values)
    )


def token_ids_of(values: Iterable[Any]) -> list[int]:
    """Plain ids of what counts as ids: numbers of other libraries too, single-element tensors among them.

    Raises:
        RequestError: something else is among them.
    """
    try:
        return list(map(index, values))
    except TypeError as error:
        raise RequestError(f"the token ids are no whole numbers: {error}") from None


def _require(holds: bool, name: str, value: object, right: str) -> None:
    if not holds:
        raise RequestError(f"{name} is {value!r}; it must be {right}")


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probability of the chosen token, and of the most likely ones, before any sampling setting."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Output:
    """What one step added to a request: tokens, the text they completed, and at the end why it ended."""

    request_id: int
    token_ids: tuple[int, ...]
    text: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    error: str | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()  # of the next tokens of the prompt
    embedding: tuple[float, ...] | None = None


Sink = Callable[[Output], object]  # called between steps by whoever steps; it may submit and abort, nothing else


@dataclass(slots=True)
class Times:
    """When what happened to a request, in seconds of `time.monotonic`; None: not yet."""

    submitted: float = field(default_factory=time.monotonic)
    admitted: float | None = None  # the first time
    first_token: float | None = None
    last_token: float | None = None


class Status(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


_ids = itertools.count(1)
_entropy = random.SystemRandom()


@dataclass(eq=False)
class Request:
    """One sequence on its way through the engine.

    `num_computed` tokens of `token_ids` have their keys and values in the cache; whatever is beyond has to be run.
    """

    prompt_ids: list[int]
    params: SamplingParams
    stop_ids: frozenset[int]
    adapter: str | None = None
    after: "Request | None" = None  # wait until that one's prompt is in the cache, to share it
    stops: StopStrings | None = None
    bad_words: BadWords | None = None
    purpose: Purpose | None = None  # besides an answer
    generates: bool = True  # whether there is to be an answer
    request_id: int = field(default_factory=lambda: next(_ids))

    status: Status = Status.WAITING
    token_ids: list[int] = field(init=False)
    num_computed: int = 0
    block_table: list[int] = field(default_factory=list)
    num_laid_out: int = 0  # blocks of the table the runner has in its tensors; lowered when blocks are taken back
    draft_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: str | None = None
    stop_id: int | None = None  # the stop token that ended the answer; it is no part of it
    outputs: deque[Output] = field(default_factory=deque)  # what has not been read yet, where there is no sink
    sink: Sink = field(init=False)
    times: Times = field(default_factory=Times)
    num_cached: int = 0  # prompt tokens found in the prefix cache at the first admission
    num_preemptions: int = 0
    max_total: int = 0  # prompt and answer together may reach this; set by the engine
    seed: int = field(init=False)
    counts: TokenCounts | None = None  # made when a setting first needs them
    told: Told | None = field(init=False, default=None)  # the constraint, if there is one

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise RequestError("the prompt has no tokens; at least one is needed")
        self.token_ids, self.sink = list(self.prompt_ids), self.outputs.append
        self.seed = self.params.seed if self.params.seed is not None else _entropy.getrandbits(63)
        if self.params.constraint is not None:
            self.told = Told(self.params.constraint(), len(self.prompt_ids))

    def rewind(self, length: int) -> None:
        """Tokens from `length` on turn out otherwise: what goes along with the text forgets them."""
        for follower in (self.counts, self.told):
            if follower is not None:
                follower.rewind(length)

    @property
    def output_ids(self) -> list[int]:
        return self.token_ids[len(self.prompt_ids) :]

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - len(self.prompt_ids)

    @property
    def num_pending(self) -> int:
        """Known tokens whose keys and values are not in the cache yet."""
        return len(self.token_ids) - self.num_computed

    @property
    def most_cached(self) -> int:
        """How many tokens at its beginning need not be run, if their keys and values are known."""
        most, purpose = len(self.token_ids) - 1, self.purpose
        return min(most, purpose.next_state) if purpose is not None and purpose.next_state < purpose.stop else most

    @property
    def finished(self) -> bool:
        return self.status is Status.FINISHED
