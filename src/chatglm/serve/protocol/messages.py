"""`POST /v1/messages` in Anthropic's format: the request, and the same request in OpenAI's."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from chatglm.serve.errors import unsupported, wrong
from chatglm.serve.protocol.base import Body, Value
from chatglm.serve.protocol.chat import ChatRequest, Name

_LOOSE = ConfigDict(strict=True, extra="ignore", frozen=True)


class TextBlock(Value):
    model_config = _LOOSE
    type: Literal["text"]
    text: str


class ToolUseBlock(Value):
    model_config = _LOOSE
    type: Literal["tool_use"]
    id: str
    name: Name
    input: dict[str, Any]


class ToolResultBlock(Value):
    model_config = _LOOSE
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] = ""
    is_error: bool = False


Block = Annotated[TextBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]


class SaidMessage(Value):
    model_config = _LOOSE
    role: Literal["user", "assistant"]
    content: str | list[Block]


class OfferedTool(Value):
    model_config = _LOOSE
    name: Name
    description: str = ""
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None


class ToolChoice(Value):
    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool = False


class CountRequest(Body):
    """A conversation whose tokens are counted."""

    unsupported: ClassVar[dict[str, str]] = {
        "thinking": "this model does not think aloud",
        "mcp_servers": "this server calls no other",
        "container": "this server keeps none",
    }
    neutral: ClassVar[dict[str, Any]] = {"thinking": {"type": "disabled"}, "mcp_servers": []}

    model: str
    messages: Annotated[list[SaidMessage], Field(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: list[OfferedTool] = []
    tool_choice: ToolChoice | None = None

    def as_chat(self) -> dict[str, Any]:
        """The conversation and its tools in OpenAI's format."""
        messages: list[dict[str, Any]] = []
        if self.system:
            messages.append({"role": "system", "content": _text(self.system)})
        for message in self.messages:
            messages += _converted(message)
        body: dict[str, Any] = {"model": self.model, "messages": messages}
        if self.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name, "description": tool.description, "parameters": tool.input_schema,
                    },
                }
                for tool in self.tools
            ]  # fmt: skip
            body |= self._choice()
        elif self.tool_choice is not None and self.tool_choice.type not in ("auto", "none"):
            raise wrong("tool_choice", "tool_choice asks for a call and there are no tools; give tools")
        return body

    def _choice(self) -> dict[str, Any]:
        choice = self.tool_choice
        if choice is None:
            return {}
        if choice.type == "tool" and choice.name is None:
            raise wrong("tool_choice.name", "tool_choice is of type tool and names none")
        words = {"auto": "auto", "any": "required", "none": "none"}
        told: Any = words.get(choice.type, {"type": "function", "function": {"name": choice.name}})
        return {"tool_choice": told, "parallel_tool_calls": not choice.disable_parallel_tool_use}


class MessagesRequest(CountRequest):
    """A conversation to be answered."""

    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: list[str] = []
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    stream: bool = False

    def chat(self) -> ChatRequest:
        """The same request in OpenAI's format."""
        body = self.as_chat() | {"max_tokens": self.max_tokens, "stream": self.stream}
        more = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        body |= {name: value for name, value in more.items() if value is not None}
        if self.stop_sequences:
            body["stop"] = self.stop_sequences
        return ChatRequest.model_validate(body)


def _converted(message: SaidMessage) -> list[dict[str, Any]]:
    """One message of Anthropic's format is several of ours: results of tools have a role of their own."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    results, texts, calls = [], [], []
    for block in message.content:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ToolUseBlock):
            arguments = json.dumps(block.input, ensure_ascii=False)
            calls.append({"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}})
        else:
            results.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": _result(block)})
    if message.role == "user" and calls or message.role == "assistant" and results:
        raise unsupported("messages", f"a {message.role} message has a block that only the other side can write")
    said: dict[str, Any] = {"role": message.role, "content": "\n".join(texts)}
    if calls:
        return [said | {"tool_calls": calls}]
    return [*results, *([said] if texts or not results else [])]


def _result(block: ToolResultBlock) -> str:
    """What a tool has given; a failure is told as such in words, which is all that the model reads."""
    text = _text(block.content)
    return f"Error: {text}" if block.is_error and not text.lower().startswith("error") else text


def _text(content: str | list[TextBlock]) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)
