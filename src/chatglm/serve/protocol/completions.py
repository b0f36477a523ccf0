"""`POST /v1/completions`: the request. For base models, and for those who measure log-likelihoods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from chatglm.serve.errors import wrong
from chatglm.serve.protocol.chat import ResponseFormat, StreamOptions, StructuredOutputs
from chatglm.serve.protocol.sampling import Sampling

TokenId = Annotated[int, Field(ge=0)]


class CompletionRequest(Sampling):
    """Texts, or their token ids, to be continued."""

    unsupported: ClassVar[dict[str, str]] = {"suffix": "this model writes forwards only"}
    neutral: ClassVar[dict[str, Any]] = {"suffix": ""}

    model: str
    prompt: str | Annotated[list[str] | list[TokenId] | list[list[TokenId]], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=0)] = 16
    best_of: Annotated[int, Field(ge=1)] | None = None
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of < self.n:
            raise wrong("best_of", f"best_of is {self.best_of} and n is {self.n}; best_of must be at least n")
        if self.stream and self.best_of is not None and self.best_of > self.n:
            raise wrong("best_of", "best_of above n cannot be streamed: the best is known at the end")
        if self.stream_options is not None and not self.stream:
            raise wrong("stream_options", "stream_options is given without stream; set stream to true")
        if self.max_tokens == 0 and not self.echo:
            raise wrong("max_tokens", "max_tokens is 0 and nothing is echoed; ask for a token or set echo")
        return self

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """One item for each prompt."""
        return several(self.prompt)


def several(prompts: Any) -> Sequence[str | list[int]]:
    """One item for each text: what was given is a text, a list of texts, the ids of one or a list of such."""
    if isinstance(prompts, str):
        return [prompts]
    return [list(prompts)] if isinstance(prompts[0], int) else list(prompts)
