"""What is said in a conversation, and the events a turn is made of. Plain values, no format."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from chatglm.errors import PromptError


class Role(str, Enum):
    """Who speaks. `observation` is the result of a tool or of code."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    OBSERVATION = "observation"

    def __str__(self) -> str:
        return self.value

    @property
    def marker(self) -> str:
        """The spelling of the role's special token, e.g. `<|user|>`."""
        return f"<|{self.value}|>"


class _Null(Enum):
    """`"tools": null` of an official dict, which is not the same as no tools: the official code writes "null"."""

    TOOLS = "null"


NULL_TOOLS = _Null.TOOLS
INTERPRETER = "interpreter"  # the metadata of an assistant turn that is code to run


@dataclass(frozen=True, slots=True)
class Message:
    """One item of a conversation.

    Args:
        role: a `Role` or its name.
        content: the text.
        metadata: the rest of the role line: of an assistant the tool's name, or `interpreter`; else "".
        tools: of a system message, the tools as a JSON value (a list of dicts); it is written after the content.
        ids: of an assistant, the token ids it was generated with: everything after `<|assistant|>`, without the stop
            token. They are rendered as they are, so that the next prompt repeats the answer to the token.

    Raises:
        PromptError: an unknown role, content or metadata that is no text, ids of somebody who does not generate.
    """

    role: Role
    content: str
    metadata: str = ""
    tools: Any = None
    ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "role", Role(self.role))
        except ValueError:
            allowed = ", ".join(role.value for role in Role)
            raise PromptError(f"unknown role {self.role!r}; it must be one of: {allowed}") from None
        for name in ("content", "metadata"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise PromptError(f"the {name} of a {self.role} message is {value!r}; it must be a text")
        if self.ids is not None:
            if self.role is not Role.ASSISTANT:
                raise PromptError(f"a {self.role} message has token ids; only assistant messages are generated")
            object.__setattr__(self, "ids", tuple(self.ids))

    @classmethod
    def from_dict(cls, item: "Mapping[str, Any] | Message") -> "Message":
        """Reads the official dict form `{"role", "content", "metadata", "tools"}`, and our `"ids"`.

        Other keys are ignored, as the official code does. `"tools": None` is kept apart from no tools.

        Raises:
            PromptError: see the class; also a missing role or content.
        """
        if isinstance(item, Message):
            return item
        if not isinstance(item, Mapping):
            raise PromptError(f"a message is {item!r}; it must be a dict with the keys 'role' and 'content'")
        missing = [key for key in ("role", "content") if key not in item]
        if missing:
            raise PromptError(f"a message has no key {missing[0]!r}; its keys are {sorted(map(str, item))}")
        tools = NULL_TOOLS if "tools" in item and item["tools"] is None else item.get("tools")
        metadata = "" if item.get("metadata") is None else item["metadata"]
        return cls(item["role"], item["content"], metadata, tools, item.get("ids"))

    def to_dict(self, *, with_ids: bool = False) -> dict[str, Any]:
        """The official dict form; `metadata` for assistants and where it is not empty, `ids` only if asked for."""
        item: dict[str, Any] = {"role": self.role.value}
        if self.metadata or self.role is Role.ASSISTANT:
            item["metadata"] = self.metadata
        item["content"] = self.content
        if self.tools is not None:
            item["tools"] = None if self.tools is NULL_TOOLS else self.tools
        if with_ids and self.ids is not None:
            item["ids"] = list(self.ids)
        return item

    def text(self) -> str:
        """The content as the model reads it: with the tools of a system message after it.

        Raises:
            PromptError: the tools are not JSON values.
        """
        if self.role is not Role.SYSTEM or self.tools is None:
            return self.content
        return f"{self.content}\n{tools_json(None if self.tools is NULL_TOOLS else self.tools)}"


def tools_json(tools: Any) -> str:
    """Tools exactly as the model was trained to read them: four blanks per level, no escapes, order kept."""
    try:
        return json.dumps(tools, indent=4, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise PromptError(f"the tools cannot be written as JSON: {error}") from None


def as_messages(items: "Iterable[Mapping[str, Any] | Message]") -> list[Message]:
    """Messages out of messages and official dicts, mixed as they come."""
    return [Message.from_dict(item) for item in items]


def check_metadata(metadata: str, where: str) -> None:
    """Refuses metadata that would leave its line or pass for something else: the line ends it, and nothing escapes it.

    Raises:
        PromptError: a line break or other invisible character, blanks around it, or a role marker.
    """
    if metadata and not metadata.isprintable():
        raise PromptError(f"{where} is {metadata!r}; it must be one line of visible characters")
    if metadata != metadata.strip() or not metadata:
        raise PromptError(f"{where} is {metadata!r}; it must be a name without blanks around it")
    marker = next((role.marker for role in Role if role.marker in metadata), None)
    if marker is not None:
        raise PromptError(f"{where} is {metadata!r}; it must not contain the role marker {marker}")


def check_encodable(text: str, where: str) -> None:
    """Refuses what is no text, and text that is no Unicode text: half of a surrogate pair has no bytes.

    Raises:
        PromptError: names the character and its place.
    """
    if not isinstance(text, str):
        raise PromptError(f"{where} is {text!r}; it must be a text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise PromptError(
            f"{where} holds a lone surrogate U+{code:04X} at position {error.start}; it must be valid Unicode text"
        ) from None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model wrote: parsed arguments, or the reason why they could not be read. Nothing was evaluated."""

    name: str
    arguments: dict[str, Any] | None
    raw: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of the answer. The deltas of a segment join to its displayed text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of what the model writes as a call or as code.

    Attributes:
        name: the tool; `interpreter` for code.
        text: as it is written, fences and all.
        id: of the call or the code.
    """

    name: str
    text: str
    id: int


@dataclass(frozen=True, slots=True)
class ToolCallDone:
    """A call is complete."""

    call: ToolCall
    id: int


@dataclass(frozen=True, slots=True)
class CodeDone:
    """Code to run is complete.

    Attributes:
        code: without its fences.
        raw: as it was written.
        id: of the code.
    """

    code: str
    raw: str
    id: int


@dataclass(frozen=True, slots=True)
class Done:
    """The turn is over.

    Attributes:
        reason: the engine's word for why: stop, length, abort, error.
        stop_id: the token that ended it, if one did.
    """

    reason: str
    stop_id: int | None = None


Event = TextDelta | ToolCallDelta | ToolCallDone | CodeDone | Done
