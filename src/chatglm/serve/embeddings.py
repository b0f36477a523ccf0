"""`POST /v1/embeddings`: a vector for each text, of the states of the model itself or of a model for sentences."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from chatglm.engine.request import Output
from chatglm.errors import ChatGLMError, GenerationError
from chatglm.serve.errors import from_ours, wrong
from chatglm.serve.protocol.base import Body
from chatglm.serve.protocol.completions import TokenId, several
from chatglm.serve.sentences import SentenceModel
from chatglm.serve.service import Service

MOST_INPUTS = 2048


class EmbeddingRequest(Body):
    """Texts, or their token ids."""

    model: str
    input: str | Annotated[list[str] | list[TokenId] | list[list[TokenId]], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    pooling: Literal["mean", "last"] | None = None  # None: mean, or what a model for sentences was trained with

    @property
    def inputs(self) -> Sequence[str | list[int]]:
        return several(self.input)


async def embeddings(service: Service, request: EmbeddingRequest) -> dict[str, Any]:
    """The body of the answer: vectors of length 1, in the order of the texts.

    Raises:
        ApiError: 400, a text that is empty or too long, or more of them than the server takes.
    """
    if len(request.inputs) > MOST_INPUTS:
        raise wrong("input", f"input has {len(request.inputs)} texts; at most {MOST_INPUTS} are taken at once")
    sentences = service.sentences
    vectors: Sequence[Sequence[float]]
    if sentences is not None and request.model == sentences.name:
        vectors, tokens = await _of_sentences(sentences, request)
    else:
        vectors, tokens = await _of_states(service, request)
    size = len(vectors[0])
    if request.dimensions is not None and request.dimensions > size:
        raise wrong("dimensions", f"dimensions is {request.dimensions}; this model's vectors have {size}")
    made = [_unit(vector[: request.dimensions]) for vector in vectors]
    return {
        "object": "list",
        "model": request.model,
        "data": [
            {"object": "embedding", "index": index, "embedding": _told(vector, request.encoding_format)}
            for index, vector in enumerate(made)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


async def _of_sentences(model: SentenceModel, request: EmbeddingRequest) -> tuple[list[list[float]], int]:
    texts = [text for text in request.inputs if isinstance(text, str)]
    if len(texts) < len(request.inputs):
        raise wrong("input", f"input holds token ids, which {model.name} does not have; send texts")
    if request.pooling is not None:
        raise wrong("pooling", f"pooling is {request.pooling!r}; {model.name} has its own, leave it out")
    tokens = sum(await asyncio.to_thread(model.counts, texts))
    return await model.vectors(texts), tokens


async def _of_states(service: Service, request: EmbeddingRequest) -> tuple[list[tuple[float, ...]], int]:
    adapter = service.adapter_of(request.model)
    ids = [service.ids_of(text, field="input") for text in request.inputs]
    for prompt in ids:
        service.most_tokens(len(prompt), None, field="input")
    return await _vectors(service, ids, request.pooling or "mean", adapter), sum(map(len, ids))


async def _vectors(
    service: Service, prompts: Sequence[list[int]], pooling: Literal["mean", "last"], adapter: str | None
) -> list[tuple[float, ...]]:
    """One for each prompt; leaving ends what is left."""
    requests: list[Any] = []
    try:
        for prompt in prompts:
            requests.append(service.engine.submit(prompt, pool=pooling, adapter=adapter))
        return list(await asyncio.gather(*(_vector(service.engine, request) for request in requests)))
    except ChatGLMError as error:
        raise from_ours(error) from error
    finally:
        for request in requests:
            service.engine.abort(request)


async def _vector(engine: Any, request: Any) -> tuple[float, ...]:
    vector: tuple[float, ...] | None = None
    ended: Output | None = None
    async for output in engine.astream(request):
        vector, ended = output.embedding or vector, output
    if vector is None:
        raise GenerationError(f"no vector was made: {ended.error if ended is not None else 'nothing came'}")
    return vector


def _unit(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(math.fsum(value * value for value in vector))
    return [value / length for value in vector] if length else list(vector)


def _told(vector: Sequence[float], form: str) -> Any:
    """Numbers, or the bytes of little-endian float32 in base64, as clients of OpenAI ask for by default."""
    return list(vector) if form == "float" else base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
