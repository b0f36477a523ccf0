"""What an engine tells: finished answers, scores, counters."""

from dataclasses import dataclass

from chatglm.engine.request import FinishReason, TokenLogprobs
from chatglm.errors import RequestError


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished answer."""

    token_ids: tuple[int, ...]
    decoded: str | None
    finish_reason: FinishReason
    stop_id: int | None
    logprobs: tuple[TokenLogprobs, ...]
    error: str | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    embedding: tuple[float, ...] | None = None

    @property
    def text(self) -> str:
        """The answer as text.

        Raises:
            RequestError: the engine knows ids only.
        """
        if self.decoded is None:
            raise RequestError(
                "this engine has no decoder, so there is no text; decode `token_ids`, or make the engine with "
                "new_decoder=, as chatglm.engine_for(model, tokenizer) does"
            )
        return self.decoded


@dataclass(frozen=True, slots=True)
class Score:
    """Natural-log likelihood of a continuation."""

    logprob: float
    token_logprobs: tuple[float, ...]
    greedy: bool  # whether greedy decoding would have written it


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters since the start, and what is going on now."""

    running: int
    waiting: int
    finished: int
    steps: int
    prompt_tokens: int
    output_tokens: int
    cache_tokens: int
    cache_bytes: int
    cache_tokens_free: int
    prefix_tokens_queried: int
    prefix_tokens_hit: int
    evictions: int
    preemptions: int
    drafts_proposed: int
    drafts_accepted: int

    @property
    def hit_rate(self) -> float:
        """Share of prompt tokens that were found in the cache."""
        return self.prefix_tokens_hit / self.prefix_tokens_queried if self.prefix_tokens_queried else 0.0
