"""`POST /v1/responses`: the request, and the same request in the format of chat completions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from chatglm.serve.errors import wrong
from chatglm.serve.protocol.base import HARMLESS, Body, Value
from chatglm.serve.protocol.chat import ChatRequest, JsonSchema, Name, TextPart

_LOOSE = ConfigDict(strict=True, extra="ignore", frozen=True)


class SaidItem(Value):
    model_config = _LOOSE
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]


class CallItem(Value):
    model_config = _LOOSE
    type: Literal["function_call"]
    call_id: str
    name: Name
    arguments: str = "{}"


class ResultItem(Value):
    model_config = _LOOSE
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[TextPart]


class ReasoningItem(Value):
    """Clients send back everything they were sent; other models think aloud."""

    model_config = _LOOSE
    type: Literal["reasoning"]


class OfferedFunction(Value):
    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedChoice(Value):
    type: Literal["function"]
    name: Name


class PlainFormat(Value):
    type: Literal["text", "json_object"]


class SchemaFormat(JsonSchema):
    type: Literal["json_schema"]


class TextOptions(Value):
    model_config = _LOOSE
    format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None


class ResponsesRequest(Body):
    """Something to answer. Nothing is kept: what was said before is sent again by the client."""

    harmless: ClassVar[frozenset[str]] = HARMLESS | {"include", "reasoning", "stream_options", "top_logprobs"}
    unsupported: ClassVar[dict[str, str]] = {
        "previous_response_id": "this server keeps no responses; send the conversation as input",
        "conversation": "this server keeps no conversations; send the conversation as input",
        "background": "this server answers while it is asked",
        "prompt": "this server keeps no prompts",
        "max_tool_calls": "this server calls no tools of its own",
        "context_management": "this server keeps no conversations",
    }
    neutral: ClassVar[dict[str, Any]] = {"background": False}

    model: str
    input: str | Annotated[list[SaidItem | CallItem | ResultItem | ReasoningItem], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    tools: list[OfferedFunction] = []
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool = True
    text: TextOptions | None = None
    truncation: Literal["disabled"] | None = None
    stream: bool = False

    def chat(self) -> ChatRequest:
        """The same request in the format of chat completions."""
        body: dict[str, Any] = {"model": self.model, "messages": self._messages(), "stream": self.stream}
        more = {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_output_tokens}
        body |= {name: value for name, value in more.items() if value is not None}
        if self.tools:
            body["tools"] = [{"type": "function", "function": _function(tool)} for tool in self.tools]
            body["parallel_tool_calls"] = self.parallel_tool_calls
        if isinstance(self.tool_choice, NamedChoice):
            body["tool_choice"] = {"type": "function", "function": {"name": self.tool_choice.name}}
        elif self.tool_choice is not None:
            body["tool_choice"] = self.tool_choice
        if (wanted := self.text.format if self.text is not None else None) is not None:
            body["response_format"] = _format(wanted)
        return ChatRequest.model_validate(body)

    def _messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*messages, {"role": "user", "content": self.input}]
        for item in self.input:
            if isinstance(item, SaidItem):
                messages.append({"role": item.role, "content": _text(item.content)})
            elif isinstance(item, CallItem):
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            elif isinstance(item, ResultItem):
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
        if not messages:
            raise wrong("input", "input holds nothing to answer")
        return messages


def _function(tool: OfferedFunction) -> dict[str, Any]:
    told: dict[str, Any] = {"name": tool.name, "description": tool.description or "", "strict": tool.strict}
    return told | ({"parameters": tool.parameters} if tool.parameters is not None else {})


def _format(wanted: PlainFormat | SchemaFormat) -> dict[str, Any]:
    if isinstance(wanted, PlainFormat):
        return {"type": wanted.type}
    return {
        "type": "json_schema",
        "json_schema": {"name": wanted.name, "schema": wanted.schema_, "strict": wanted.strict},
    }


def _text(content: str | list[TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
