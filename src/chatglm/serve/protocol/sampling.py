"""The fields that say how tokens are chosen: OpenAI's, and the extensions that servers of open models share."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import Field, field_validator

from chatglm.engine.request import SamplingParams
from chatglm.serve.errors import ApiError
from chatglm.serve.protocol.base import Body

MAX_STOP = 16
BAN = -100  # OpenAI's least bias is documented as a ban
GREEDY = 1e-5  # at or below this temperature the official server takes the likeliest token

Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Sampling(Body):
    """How tokens are chosen. Unset fields take the server's defaults, which are those of the official `chat`."""

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Probability | None = None
    n: Annotated[int, Field(ge=1)] = 1
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0)]] = []
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = {}
    bad_words: list[str] = []
    min_tokens: Annotated[int, Field(ge=0)] = 0
    ignore_eos: bool = False
    stream: bool = False

    @field_validator("stop")
    @classmethod
    def _stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        texts = [value] if isinstance(value, str) else value or []
        if len(texts) > MAX_STOP or not all(texts):
            raise ValueError(f"must be at most {MAX_STOP} texts, none empty")
        return value

    @field_validator("logit_bias")
    @classmethod
    def _biases(cls, value: dict[str, float]) -> dict[str, float]:
        wrong = next((key for key in value if not key.isascii() or not key.isdigit()), None)
        if wrong is not None:
            raise ValueError(f"the keys must be token ids; one is {wrong!r:.60}")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def params(
        self, *, temperature: float, top_p: float, max_tokens: int | None, seed_offset: int = 0, **more: Any
    ) -> SamplingParams:
        """The engine's settings; `temperature` and `top_p` are the server's defaults, `seed_offset` tells the answers
        of one request apart.

        Raises:
            ApiError: what the engine refuses.
        """
        wanted = self.temperature if self.temperature is not None else temperature
        if self.min_tokens > (max_tokens or self.min_tokens):
            raise ApiError(
                400, f"min_tokens is {self.min_tokens}; it must be at most max_tokens, {max_tokens}", param="min_tokens"
            )
        return SamplingParams(
            temperature=0.0 if wanted <= GREEDY else wanted,
            top_p=self.top_p if self.top_p is not None else top_p,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            seed=None if self.seed is None else (self.seed + seed_offset) % 2**63,
            stop_token_ids=self.stop_token_ids,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias={int(key): -math.inf if value <= BAN else value for key, value in self.logit_bias.items()},
            bad_words=self.bad_words,
            min_tokens=self.min_tokens,
            ignore_eos=self.ignore_eos,
            max_tokens=max_tokens,
            **more,
        )
