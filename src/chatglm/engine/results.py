"""What an engine tells: finished answers, scores, counters."""

from dataclasses import dataclass

from chatglm.engine.request import FinishReason, TokenLogprobs


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished answer."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    stop_id: int | None
    logprobs: tuple[TokenLogprobs, ...]
    error: str | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    embedding: tuple[float, ...] | None = None


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
