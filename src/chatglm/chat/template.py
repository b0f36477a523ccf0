"""From messages to the token ids the model was trained on, with the mask of the tokens a loss is taken on.

The one place that knows the prompt formats. `encode` turns plain text into ids and never makes a special token, so
nothing a user, a tool or a file says can become a role.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chatglm.chat.message import Message, Role, as_messages, check_encodable, check_metadata
from chatglm.errors import PromptError

Encode = Callable[[str], list[int]]
Version = Literal["chatglm3", "chatglm2"]

TOOLS_PROMPT = (
    "Answer the following questions as best as you can. You have access to the following tools:"  # official wording
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids of a conversation; `loss_mask[i]` says whether token i is one the model is trained to predict."""

    ids: list[int]
    loss_mask: list[bool]


def render(
    messages: Iterable[Message | Mapping[str, Any]],
    encode: Encode,
    specials: Mapping[str, int],
    *,
    version: str = "chatglm3",
    add_generation_prompt: bool = True,
    add_eos: bool = False,
    loss: Sequence[bool | None] | None = None,
) -> Rendered:
    """Renders a conversation. Any order of ChatGLM3 messages can be rendered: `validate` is what judges it.

    A token is in the loss mask when the token before it belongs to an assistant message: the metadata line, the
    content, and the token after the answer, but not `<|assistant|>` itself.

    Args:
        messages: messages or official dicts.
        encode: plain text to ids, no special tokens, one dummy prefix per call.
        specials: ids of `[gMASK]`, `sop`, the roles (ChatGLM3), and `<eos>` where `add_eos` asks for it.
        version: "chatglm3" (role tokens) or "chatglm2" (`[Round n]` text).
        add_generation_prompt: end where the assistant begins to write.
        add_eos: end with the end-of-text token, as in training.
        loss: for each message whether it is learned, with the token after it; None: as its role says.

    Raises:
        PromptError: an unknown version, a special token without an id, a conversation ChatGLM2 has no form for.
    """
    writer = _Writer(encode, specials)
    writer.special("[gMASK]")
    writer.special("sop")
    found = as_messages(messages)
    learned = [None] * len(found) if loss is None else loss
    if version == "chatglm3":
        _render_roles(found, writer, add_generation_prompt, learned)
    elif version == "chatglm2":
        _render_rounds(found, writer, add_generation_prompt, learned)
    else:
        raise PromptError(f"unknown chat format {version!r}; it must be 'chatglm3' or 'chatglm2'")
    if add_eos:
        writer.special("<eos>")
    return Rendered(writer.ids, [False, *writer.owned[:-1]])


class _Writer:
    """Collects ids and, for each, whether it belongs to an assistant message."""

    def __init__(self, encode: Encode, specials: Mapping[str, int]) -> None:
        self.encode, self.specials = encode, specials
        self.ids: list[int] = []
        self.owned: list[bool] = []

    def add(self, ids: Sequence[int], owned: bool = False) -> None:
        self.ids += ids
        self.owned += [owned] * len(ids)

    def special(self, name: str, owned: bool = False) -> None:
        if name not in self.specials:
            raise PromptError(f"no id is known for the special token {name!r}; known are {sorted(self.specials)}")
        self.add([self.specials[name]], owned)


def _render_roles(
    messages: list[Message], writer: _Writer, add_generation_prompt: bool, loss: Sequence[bool | None]
) -> None:
    for message, learned in zip(messages, loss, strict=True):
        owned = message.role is Role.ASSISTANT if learned is None else learned
        writer.special(message.role.marker, owned)
        if message.ids is not None:
            writer.add(message.ids, owned)
        else:  # two calls: each brings its own dummy prefix
            writer.add(writer.encode(message.metadata + "\n"), owned)
            writer.add(writer.encode(message.text()), owned)
    if add_generation_prompt:
        writer.special(Role.ASSISTANT.marker)


def build_prompt(query: str, history: Iterable[tuple[str, str]] = ()) -> str:
    """ChatGLM2's prompt text: numbered rounds of question and answer, ending where the answer begins."""
    rounds = [*history, (query, "")]
    texts = [f"[Round {number}]\n\n问：{asked}\n\n答：{answer}" for number, (asked, answer) in enumerate(rounds, 1)]
    return "\n\n".join(texts)


def _render_rounds(
    messages: list[Message], writer: _Writer, add_generation_prompt: bool, loss: Sequence[bool | None]
) -> None:
    """ChatGLM2. The text is encoded in one piece, as the official code does; a last message that is an answer, and
    answers with ids, stand apart. Only a last answer is trained on, as in the official training code."""
    check_rounds(messages)
    if any(loss[:-1]):
        raise PromptError(f"message {list(loss).index(True)} is to be learned; ChatGLM2 learns only its last answer")
    text, started = "", False

    def flush() -> None:
        nonlocal text, started
        ids = writer.encode(text)
        # Text that goes on after given ids has no dummy prefix: the official code drops it too when it streams.
        writer.add(ids[1:] if started else ids)
        text, started = "", True

    for index, message in enumerate(messages):
        if message.role is Role.USER:
            text += ("\n\n" if index else "") + f"[Round {index // 2 + 1}]\n\n问：{message.content}"
            continue
        text += "\n\n答："
        if message.ids is None and index < len(messages) - 1:
            text += message.content
            continue
        flush()
        last = index == len(messages) - 1 and loss[index] is not False
        # No role token stands before a ChatGLM2 answer: the colon predicts its first token.
        writer.owned[-1] = last
        writer.add(writer.encode(message.content) if message.ids is None else message.ids, owned=last)
    if messages[-1].role is Role.USER:
        text += "\n\n答：" if add_generation_prompt else ""
    if text:
        flush()


def check_rounds(messages: list[Message], name: str = "ChatGLM2") -> None:
    """Raise PromptError unless users and answers stand in turn, as the models without roles need it."""
    if not messages:
        raise PromptError("the conversation is empty; it must hold at least one user message")
    for index, message in enumerate(messages):
        wanted = Role.ASSISTANT if index % 2 else Role.USER
        if message.role is not wanted or message.metadata or message.tools is not None:
            raise PromptError(
                f"message {index} is a {message.role} message with metadata {message.metadata!r} and "
                f"{'no ' if message.tools is None else ''}tools; {name} has only user and assistant messages, "
                f"in turn, without metadata or tools: a {wanted} message must stand here"
            )


def validate(messages: Iterable[Message | Mapping[str, Any]], *, version: str = "chatglm3") -> None:
    """Checks a conversation against the documented rules of the format. `render` does not: callers decide.

    A system message only at the start; users never adjacent; an assistant after a user, an observation, or (a call
    after text, several calls) another assistant; an observation after an assistant, and more of them only as far as
    that turn made several calls. Metadata only of assistants, see `check_metadata`. Tools only of the system message.
    No text that cannot be encoded.

    Raises:
        PromptError: names the message, what was seen and what must stand there.
    """
    found = as_messages(messages)
    if not found:
        raise PromptError("the conversation is empty; it must hold at least one message")
    for index, message in enumerate(found):
        _check_message(index, message)
    if version != "chatglm3":
        check_rounds(found, "ChatGLM2" if version == "chatglm2" else "ChatGLM-6B")
        return
    for index in range(len(found)):
        _check_order(index, found)


def _check_order(index: int, messages: list[Message]) -> None:
    role = messages[index].role
    previous = messages[index - 1].role if index else None
    if role is Role.SYSTEM and index:
        raise PromptError(f"message {index} is a system message; only the first message may be one")
    if role is Role.USER and previous is Role.USER:
        raise PromptError(f"messages {index - 1} and {index} are both user messages; an assistant must answer between")
    if role is Role.ASSISTANT and previous in (None, Role.SYSTEM):
        raise PromptError(f"message {index} is an assistant message; a user message must come before it")
    if role is Role.OBSERVATION and not _expects_observation(index, messages):
        raise PromptError(f"message {index} is an observation; it must follow the assistant message that made a call")


def _expects_observation(index: int, messages: list[Message]) -> bool:
    """An assistant turn gets one observation, or as many as it made calls."""
    first = index
    while first and messages[first - 1].role is Role.OBSERVATION:
        first -= 1
    start = first
    while start and messages[start - 1].role is Role.ASSISTANT:
        start -= 1
    calls = sum(message.metadata != "" for message in messages[start:first])
    return start < first and index - first < max(1, calls)


def _check_message(index: int, message: Message) -> None:
    where = f"message {index}"
    for name, text in (("content", message.text()), ("metadata", message.metadata)):
        check_encodable(text, f"the {name} of {where}")
    if message.metadata and message.role is not Role.ASSISTANT:
        raise PromptError(f"{where} is a {message.role} message with metadata; only assistant messages have it")
    if message.metadata:
        check_metadata(message.metadata, f"the metadata of {where}")
    if message.tools is not None and message.role is not Role.SYSTEM:
        raise PromptError(f"{where} is a {message.role} message with tools; only the system message offers tools")
    for name in tool_names(message.tools):
        check_metadata(name, f"a tool name of {where}")


def tool_names(tools: Any) -> list[str]:
    """Names in the forms tools come in: a list of dicts, or a dict of them; anything else is left alone."""
    items = list(tools.values()) if isinstance(tools, Mapping) else tools if isinstance(tools, (list, tuple)) else []
    inner = [item.get("function", item) if isinstance(item, Mapping) else item for item in items]
    names = [item.get("name") for item in inner if isinstance(item, Mapping)]
    return [name for name in names if isinstance(name, str)]
