"""`/tokenize`, `/detokenize` and `/tokenizer_info`: what programs that count and measure ask before they send."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from chatglm.serve.errors import wrong
from chatglm.serve.protocol.base import Body
from chatglm.serve.protocol.chat import ChatMessage, Tool
from chatglm.serve.service import Service


class TokenizeRequest(Body):
    """A text or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _is_one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise wrong("prompt", "either prompt or messages must be given, and not both")
        return self


class DetokenizeRequest(Body):
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


def tokenize(service: Service, request: TokenizeRequest) -> dict[str, Any]:
    """The ids of a text or of a conversation up to where the answer begins."""
    _check_model(service, request.model)
    if request.messages is not None:
        tools = [tool.function.model_dump(exclude={"strict"}) for tool in request.tools or ()]
        ids = service.render([message.model_dump(exclude_none=True) for message in request.messages], tools)
    else:
        assert request.prompt is not None
        ids = list(service.tokenizer(request.prompt, add_special_tokens=request.add_special_tokens)["input_ids"])
    told: dict[str, Any] = {"count": len(ids), "max_model_len": service.context, "tokens": ids}
    if request.return_token_strs:
        told["token_strs"] = [service.texts[token_id].decode("utf-8", "replace") for token_id in ids]
    return told


def detokenize(service: Service, request: DetokenizeRequest) -> dict[str, Any]:
    """The text of ids."""
    _check_model(service, request.model)
    unknown = next((token_id for token_id in request.tokens if token_id >= len(service.tokenizer)), None)
    if unknown is not None:
        raise wrong("tokens", f"a token id is {unknown}; the vocabulary has {len(service.tokenizer)}")
    return {"prompt": service.text_of(request.tokens)}


def tokenizer_info(service: Service) -> dict[str, Any]:
    """What a program needs to know that has no tokenizer of its own."""
    tokenizer = service.tokenizer
    return {
        "tokenizer_class": getattr(tokenizer, "stands_for", type(tokenizer).__name__),
        "vocab_size": len(tokenizer),
        "model_max_length": service.context,
        "eos_token": tokenizer.eos_token,
        "bos_token": None,
        "pad_token": tokenizer.pad_token,
        "chat_template": tokenizer.chat_template,
    }


def _check_model(service: Service, model: str | None) -> None:
    if model is not None:
        service.adapter_of(model)
