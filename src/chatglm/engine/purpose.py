"""What a request is for besides an answer: how likely the tokens of its prompt are, or a vector that stands for it."""

from dataclasses import dataclass
from typing import Any, Literal

Pool = Literal["last", "mean"]
POOLS = ("last", "mean")


@dataclass(slots=True)
class Purpose:
    """States of a prompt that are wanted for themselves; a state is what the network makes of a token, before the head.

    Args:
        next_state: position of the first one that has not been computed yet; those before it may come from the cache.
        stop: position behind the last one.
        top: how many of the most likely tokens to tell with each log-probability.
        pool: make one vector of the states, the last or their mean; None: log-probabilities of the tokens after them.
    """

    next_state: int
    stop: int
    top: int = 0
    pool: Pool | None = None
    # Of the step that is run, until it is taken over: a step that is interrupted is run again.
    fresh: Any = None  # list[TokenLogprobs], or the states' sum [hidden]
    total: Any = None  # the sum of all states so far, float32 [hidden]
    num_summed: int = 0

    def states_in(self, start: int, stop: int) -> range:
        """The wanted states among the positions `start .. stop`."""
        return range(max(start, self.next_state), min(stop, self.stop))

    def take(self, states: range) -> Any:
        """Take a step's states over -> what it brought, None if nothing."""
        fresh, self.fresh = self.fresh, None
        if states:
            self.next_state = states.stop
        if fresh is not None and self.pool is not None:
            self.total = fresh if self.total is None else self.total + fresh
            self.num_summed += len(states)
        return fresh

    def vector(self) -> tuple[float, ...]:
        """The states' mean, once all have been computed."""
        return tuple((self.total / self.num_summed).tolist())


def likelihoods(num_tokens: int, first: int, top: int) -> Purpose:
    """The log-probabilities of a prompt's tokens from the one at `first` on; nothing foretells the one at 0."""
    return Purpose(max(first, 1) - 1, num_tokens - 1, top)


def pooled(num_tokens: int, pool: Pool) -> Purpose:
    """One vector for a prompt."""
    return Purpose(num_tokens - 1 if pool == "last" else 0, num_tokens, pool=pool)
