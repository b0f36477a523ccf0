"""What a visitor may set for an answer: the sliders of the official demos, with their ranges and beginnings."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from chatglm.errors import UsageError


@dataclass(frozen=True)
class Range:
    """A slider."""

    least: float
    most: float
    step: float
    begins: float


# Of the official composite demo; the length begins as in the official Streamlit demo (8192), for 256 tokens end most
# code in the middle. The official ranges of top_p and the penalty begin at 0, which no sampler can use.
RANGES = {
    "temperature": Range(0.0, 1.5, 0.01, 0.95),
    "top_p": Range(0.01, 1.0, 0.01, 0.8),
    "repetition_penalty": Range(0.1, 2.0, 0.01, 1.1),
    "max_new_tokens": Range(5, 32000, 1, 8192),
}


@dataclass(frozen=True)
class Settings:
    """How answers are made.

    Raises:
        UsageError: a value outside its range, which no slider gives.
    """

    temperature: float = RANGES["temperature"].begins
    top_p: float = RANGES["top_p"].begins
    repetition_penalty: float = RANGES["repetition_penalty"].begins
    max_new_tokens: int = int(RANGES["max_new_tokens"].begins)

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            allowed = RANGES[field.name]
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not allowed.least <= value <= allowed.most:
                raise UsageError(f"{field.name} is {value!r:.50}; it must be from {allowed.least} to {allowed.most}")
        object.__setattr__(self, "max_new_tokens", int(self.max_new_tokens))
