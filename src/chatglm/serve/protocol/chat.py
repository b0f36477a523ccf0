"""`POST /v1/chat/completions`: the request."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from chatglm.serve.errors import wrong
from chatglm.serve.protocol.base import Value
from chatglm.serve.protocol.sampling import Sampling
from chatglm.serve.protocol.tool_results import check_ids, in_order_of_calls

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class TextPart(Value):
    """A piece of a content that is a list; models of text read no other kind."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    type: Literal["text", "input_text", "output_text"] = "text"
    text: str


class CalledFunction(Value):
    """What an assistant has called."""

    name: Name
    arguments: str = "{}"


class ToolCall(Value):
    """A call that an assistant has made, as a server has sent it before."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Value):
    """One item of a conversation."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    role: Literal["system", "developer", "user", "assistant", "tool", "function", "observation"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: CalledFunction | None = None
    tool_call_id: str | None = None
    metadata: str | None = None  # the official form of a call: the tool's name in the role line

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        calls = self.tool_calls or self.function_call
        if calls and self.role != "assistant":
            raise ValueError(f"a {self.role} message has tool calls; only assistant messages make them")
        if self.content is None and not (self.role == "assistant" and calls):
            raise ValueError(f"a {self.role} message has no content; it must be a text or a list of text parts")
        return self


class FunctionTool(Value):
    """A function that may be called, as JSON Schema describes it."""

    name: Name
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = None


class Tool(Value):
    type: Literal["function"]
    function: FunctionTool


class NamedFunction(Value):
    name: Name


class NamedTool(Value):
    type: Literal["function"] = "function"
    function: NamedFunction


class JsonSchema(Value):
    name: str = "answer"
    description: str = ""
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class TextFormat(Value):
    type: Literal["text"]


class JsonObjectFormat(Value):
    type: Literal["json_object"]


class JsonSchemaFormat(Value):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class StreamOptions(Value):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    include_usage: bool = False


class StructuredOutputs(Value):
    """What the text must look like; one of them (vLLM's extension)."""

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None
    grammar: str | None = None  # Lark

    @model_validator(mode="after")
    def _is_one(self) -> StructuredOutputs:
        given = [name for name in ("json_", "regex", "choice", "grammar") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"must have exactly one of json, regex, choice, grammar; it has {len(given)}")
        return self


class ChatRequest(Sampling):
    """A conversation to be answered."""

    unsupported: ClassVar[dict[str, str]] = {
        "audio": "this model writes text",
        "modalities": "this model writes text",
        "prediction": "predicted outputs are not used",
        "web_search_options": "this server does not search the web",
        "moderation": "this server does not moderate",
        "chat_template_kwargs": "the format of this model has no variants",
    }
    neutral: ClassVar[dict[str, Any]] = {"modalities": ["text"], "chat_template_kwargs": {}}

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(min_length=1)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool = True
    functions: Annotated[list[FunctionTool], Field(min_length=1)] | None = None
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    stream_options: StreamOptions | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> ChatRequest:
        if self.tools and self.functions:
            raise wrong(
                "functions", "tools and functions are given; functions is the older form of tools: give one of them"
            )
        if not self.offered and self.tool_choice not in (None, "none", "auto"):
            raise wrong("tool_choice", "tool_choice asks for a call and there are no tools; give tools")
        if self.top_logprobs is not None and not self.logprobs:
            raise wrong("top_logprobs", "top_logprobs is given without logprobs; set logprobs to true")
        if self.stream_options is not None and not self.stream:
            raise wrong("stream_options", "stream_options is given without stream; set stream to true")
        if self.response_format is not None and self.structured_outputs is not None:
            raise wrong("structured_outputs", "response_format and structured_outputs are given; give one of them")
        names = [tool.name for tool in self.offered]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise wrong("tools", f"two tools are named {twice!r}; names must differ")
        check_ids(self.messages)
        chosen = self.chosen_name
        if chosen is not None and chosen not in names:
            raise wrong(
                "tool_choice", f"tool_choice names {chosen!r}, which is not offered; offered are: {', '.join(names)}"
            )
        return self

    @property
    def said(self) -> list[ChatMessage]:
        """The conversation as the model reads it."""
        return in_order_of_calls(self.messages)

    @property
    def offered(self) -> list[FunctionTool]:
        """The tools, in either form."""
        return [tool.function for tool in self.tools] if self.tools else list(self.functions or ())

    @property
    def legacy(self) -> bool:
        """Whether calls are told in the older form."""
        return self.functions is not None

    @property
    def chosen_name(self) -> str | None:
        """The tool that must be called."""
        if isinstance(self.tool_choice, NamedTool):
            return self.tool_choice.function.name
        return self.function_call.name if isinstance(self.function_call, NamedFunction) else None

    @property
    def choice(self) -> Literal["none", "auto", "required"]:
        """Whether tools may or must be called; a named one must."""
        if self.chosen_name is not None:
            return "required"
        word = self.function_call if self.legacy else self.tool_choice
        return word if word in ("none", "auto", "required") else "auto"

    @property
    def most_tokens(self) -> int | None:
        given = [value for value in (self.max_completion_tokens, self.max_tokens) if value is not None]
        return min(given, default=None)

    @property
    def wants_usage(self) -> bool:
        """In a stream: whether a last chunk tells what was used."""
        return self.stream_options is not None and self.stream_options.include_usage
