"""How the next token is chosen: the sampling options of `chatglm chat`, checked before a model is loaded."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from chatglm.errors import ChatGLMError

LARGEST_SEED = 2**63 - 1


class SamplingError(ChatGLMError, ValueError):
    """A sampling option has a value that no sampler can use."""

    exit_status = 2


@dataclass(frozen=True)
class Sampling:
    """Sampling options; `None` leaves the choice to the model. The defaults are those of the official `model.chat`.

    `max_length` limits prompt plus answer, `max_new_tokens` the answer alone; both in tokens.
    """

    temperature: float = 0.8
    top_p: float = 0.8
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    max_length: int | None = None
    greedy: bool = False

    def __post_init__(self) -> None:
        _check(
            "temperature", self.temperature, self.temperature >= 0, "a number from 0 (always the likeliest token) up"
        )
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1 (1 keeps every token)")
        if self.top_k is not None:
            _check("top_k", self.top_k, self.top_k >= 0, "0 (off) or a number of tokens to choose from")
        if self.repetition_penalty is not None:
            _check("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "above 0 (1 is off)")
        for name in ("max_new_tokens", "max_length"):
            value = getattr(self, name)
            if value is not None:
                _check(name, value, value >= 1, "at least 1 token")

    @property
    def deterministic(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.greedy or self.temperature == 0

    def generation_options(self) -> dict[str, Any]:
        """Keyword arguments for `generate`, without the ones that were not set."""
        options = {name: value for name, value in asdict(self).items() if value is not None and name != "greedy"}
        options["do_sample"] = not self.deterministic
        if self.deterministic:
            # generate() warns about sampling options it will not use.
            for name in ("temperature", "top_p", "top_k"):
                options.pop(name, None)
        return options


def check_seed(seed: int | None) -> int | None:
    """The seed itself, or an error when no generator accepts it."""
    if seed is not None:
        _check("seed", seed, 0 <= seed <= LARGEST_SEED, f"from 0 to {LARGEST_SEED}")
    return seed


def _check(name: str, value: float, right: bool, wanted: str) -> None:
    if not right or (isinstance(value, float) and not math.isfinite(value)):
        raise SamplingError(f"--{name.replace('_', '-')} is {value}; it must be {wanted}")
