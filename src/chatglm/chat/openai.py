"""Conversations as OpenAI's API and transformers' chat templates spell them, turned into messages of this format."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from chatglm.chat.call import format_tool_call
from chatglm.chat.message import Message, Role, check_metadata
from chatglm.chat.template import TOOLS_PROMPT
from chatglm.errors import PromptError

_ROLES = {"tool": Role.OBSERVATION, "function": Role.OBSERVATION, "developer": Role.SYSTEM}


def from_openai(
    messages: Iterable[Mapping[str, Any] | Message], tools: Sequence[Mapping[str, Any]] | None = None
) -> list[Message]:
    """Messages out of OpenAI's or the official dict form, mixed as they come.

    Roles `tool` and `function` become observations, `developer` becomes system. Each of an assistant's tool calls
    becomes an assistant message with the tool's name as metadata, after one with the text where there is any. Content
    may be a list of text parts.

    Args:
        messages: dicts or messages.
        tools: tools to offer, see `plain_tool`; they go into the system message, and into one with the official words
            where the conversation has none.

    Raises:
        PromptError: an unknown role, content that is no text, a call that cannot be written, tools given twice.
    """
    found = [message for item in messages for message in _convert(item)]
    return with_tools(found, tools) if tools else found


def with_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The conversation with tools in its system message.

    Raises:
        PromptError: the system message has tools already.
    """
    plain = [plain_tool(tool) for tool in tools]
    if not messages or messages[0].role is not Role.SYSTEM:
        return [Message(Role.SYSTEM, TOOLS_PROMPT, tools=plain), *messages]
    if messages[0].tools is not None:
        raise PromptError("tools are given twice: as an argument and in the system message; give them once")
    return [replace(messages[0], tools=plain), *messages[1:]]


def plain_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The dict the model reads: of `{"type": "function", "function": {...}}` the inner one, else the tool itself.

    Raises:
        PromptError: the tool is no dict.
    """
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(inner, Mapping):
        raise PromptError(f"a tool is {tool!r}; it must be a dict with name, description and parameters")
    return dict(inner)


def _convert(item: Mapping[str, Any] | Message) -> Iterator[Message]:
    if isinstance(item, Message) or not isinstance(item, Mapping):
        yield Message.from_dict(item)
        return
    role = _ROLES.get(str(item.get("role")), item.get("role"))
    calls = list(item.get("tool_calls") or ())
    if item.get("function_call"):  # the older form of the same
        calls.append({"function": item["function_call"]})
    if calls and role != Role.ASSISTANT.value:
        raise PromptError(f"a {item.get('role')} message has tool calls; only assistant messages make them")
    content = _text(item.get("content"))
    if content is None and role == Role.ASSISTANT.value:
        content = ""  # how an answer that is nothing but calls is spelled
    converted = {**item, "role": role}
    if "content" in item:
        converted["content"] = content
    if not calls or (isinstance(content, str) and content.strip()):
        yield Message.from_dict(converted)
    for call in calls:
        yield _call_message(call)


def _text(content: Any) -> Any:
    """The text of a list of text parts; anything else is for `Message` to judge."""
    if not isinstance(content, (list, tuple)):
        return content
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else part
        if not isinstance(text, str):
            raise PromptError(f"a content part is {part!r}; this model reads only text parts")
        texts.append(text)
    return "".join(texts)


def _call_message(call: Any) -> Message:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str):
        raise PromptError(f"a tool call is {call!r}; it must have a function with a name")
    check_metadata(name, "the name of a tool call")
    return Message(Role.ASSISTANT, format_tool_call(_arguments(function.get("arguments"))), name)


def _arguments(arguments: Any) -> Mapping[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            raise PromptError(f"the arguments of a tool call are {arguments!r}; they must be JSON: {error}") from None
    if not isinstance(arguments, Mapping) and arguments is not None:
        raise PromptError(f"the arguments of a tool call are {arguments!r}; they must be an object")
    return arguments or {}
