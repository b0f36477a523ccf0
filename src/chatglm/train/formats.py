"""The spellings that rows of conversations come in, and which one a row has.

| format | row |
|---|---|
| official | `{"conversations": [{"role", "content"}, ...], "tools": [...]}`, role `tool`: `{"name", "parameters", "observation"}`, `"loss"` |
| openai | `{"messages": [...], "tools": [...]}`, with `tool_calls`; `"weight": 0` of an answer: it is not learned |
| sharegpt | `{"conversations": [{"from", "value"}, ...], "system", "tools"}` |
| alpaca | `{"instruction", "input", "output", "history", "system"}` |
| chatglm2 | `{"prompt", "response", "history"}` |
| text | `{"text"}` |
"""  # noqa: E501

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chatglm.chat.call import format_tool_call
from chatglm.chat.message import INTERPRETER, Message, Role
from chatglm.chat.openai import from_openai, with_tools
from chatglm.chat.template import tool_names
from chatglm.errors import DataError, PromptError
from chatglm.train.sample import Sample

Format = Literal["official", "openai", "sharegpt", "alpaca", "chatglm2", "text"]
FORMATS: tuple[Format, ...] = ("official", "openai", "sharegpt", "alpaca", "chatglm2", "text")
_USED = {
    "official": {"conversations", "tools"},
    "openai": {"messages", "tools", "functions"},
    "sharegpt": {"conversations", "system", "tools"},
    "alpaca": {"instruction", "input", "output", "history", "system"},
    "chatglm2": {"prompt", "response", "history"},
    "text": {"text"},
}
_ITEM_KEYS = {
    "official": {"role", "content", "metadata", "loss", "name", "parameters", "observation", "tools"},
    "openai": {"role", "content", "tool_calls", "function_call", "tool_call_id", "name", "weight", "metadata", "tools"},
    "sharegpt": {"from", "value"},
}
_SHAREGPT = {
    "system": Role.SYSTEM, "human": Role.USER, "user": Role.USER, "gpt": Role.ASSISTANT, "chatgpt": Role.ASSISTANT,
    "assistant": Role.ASSISTANT, "observation": Role.OBSERVATION, "tool": Role.OBSERVATION,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns of rows with a question and an answer."""

    prompt: str
    response: str
    history: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Columns":
        """`content,summary` or `question,answer,earlier`.

        Raises:
            DataError: not two or three names.
        """
        names = [name.strip() for name in text.split(",")]
        if not 2 <= len(names) <= 3 or not all(names):
            raise DataError(f"columns are {text!r}; they must be two or three names: prompt,response[,history]")
        return cls(*names)


def sample_of(value: Any, columns: Columns | None = None) -> Sample:
    """What a row says.

    Raises:
        DataError: a row of no known spelling, or one that breaks its rules.
        PromptError: a conversation that breaks the rules of the chat format.
    """
    if not isinstance(value, Mapping):
        raise DataError(f"it is {value!r:.80}; a row must be an object")
    kind = _named_columns(columns, value) if columns is not None else format_of(value)
    row = {name: opened(name, one) for name, one in value.items()}
    if columns is not None:
        row = {"prompt": row[columns.prompt], "response": row[columns.response]} | (
            {"history": row[columns.history]} if columns.history in row else {}
        )
    return _READERS[kind](row)


def format_of(value: Mapping[str, Any]) -> Format:
    """The spelling of a row, told by its keys.

    Raises:
        DataError: none of them.
    """
    if "conversations" in value:
        items = opened("conversations", value["conversations"])
        first = items[0] if isinstance(items, list) and items else {}
        return "sharegpt" if isinstance(first, Mapping) and "from" in first else "official"
    for kind, needed in (("openai", "messages"), ("alpaca", "instruction"), ("chatglm2", "prompt"), ("text", "text")):
        if needed in value:
            return kind  # type: ignore[return-value]
    raise DataError(
        f"its keys are {', '.join(map(str, value)) or 'none'}; it must have 'conversations', 'messages', "
        "'instruction', 'prompt' or 'text' (or name its columns: --columns QUESTION,ANSWER)"
    )


def _named_columns(columns: Columns, value: Mapping[str, Any]) -> Format:
    missing = next((name for name in (columns.prompt, columns.response) if name not in value), None)
    if missing is not None:
        raise DataError(f"it has no column {missing!r}; its columns are {', '.join(map(str, value)) or 'none'}")
    return "chatglm2"


def opened(name: str, value: Any) -> Any:
    """What is a list or an object is JSON text in tables, and tools are often so in other files too."""
    structured = ("conversations", "messages", "tools", "functions", "history")
    if name not in structured or not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"its {name!r} is {value!r:.80}; it must be JSON: {error}") from None


def _text(row: Mapping[str, Any]) -> Sample:
    text = row["text"]
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"its text is {text!r:.80}; it must be a text that is not empty")
    return Sample(text=text, unused=_unused("text", row))


def _chatglm2(row: Mapping[str, Any]) -> Sample:
    if "response" not in row:
        raise DataError("it has no 'response'")
    messages = [*_rounds(row.get("history")), Message(Role.USER, _word(row, "prompt"))]
    return _sample("chatglm2", row, [*messages, Message(Role.ASSISTANT, _word(row, "response"))])


def _alpaca(row: Mapping[str, Any]) -> Sample:
    if "output" not in row:
        raise DataError("it has no 'output'")
    system = [Message(Role.SYSTEM, _word(row, "system"))] if row.get("system") else []
    more = f"\n{_word(row, 'input')}" if row.get("input") else ""
    asked = Message(Role.USER, _word(row, "instruction") + more)
    messages = [*system, *_rounds(row.get("history")), asked, Message(Role.ASSISTANT, _word(row, "output"))]
    return _sample("alpaca", row, messages)


def _rounds(history: Any) -> list[Message]:
    """Earlier questions and answers, in pairs."""
    if history is None:
        return []
    pairs = history if isinstance(history, list) else [history]
    messages = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise DataError(f"its history has {pair!r:.80}; each item must be [question, answer]")
        messages += [Message(Role.USER, pair[0]), Message(Role.ASSISTANT, pair[1])]
    return messages


def _word(row: Mapping[str, Any], name: str) -> str:
    if not isinstance(row.get(name), str):
        raise DataError(f"its {name!r} is {row.get(name)!r:.80}; it must be a text")
    return str(row[name])


def _official(row: Mapping[str, Any]) -> Sample:
    messages: list[Message] = []
    loss: list[bool | None] = []
    for index, item in enumerate(_items(row, "conversations")):
        learned = item.get("loss")
        if learned is not None and not isinstance(learned, bool):
            raise DataError(f"the loss of item {index} is {learned!r}; it must be true or false")
        if item.get("role") == "tool":
            messages += [_tool_call(index, item), Message(Role.OBSERVATION, _observation(index, item))]
            loss += [learned, None]
        else:
            messages.append(Message.from_dict(item))
            loss.append(learned)
    return _sample("official", row, messages, loss, row.get("tools"), _items(row, "conversations"))


def _tool_call(index: int, item: Mapping[str, Any]) -> Message:
    name, parameters = item.get("name"), item.get("parameters", {})
    if not isinstance(name, str) or not name:
        raise DataError(f"item {index} is a tool item with the name {name!r}; it must name its tool")
    if name == INTERPRETER and isinstance(parameters, str):
        return Message(Role.ASSISTANT, f"```python\n{parameters}\n```", name)
    if isinstance(parameters, str):
        try:
            parameters = json.loads(parameters)
        except (ValueError, RecursionError):
            raise DataError(f"the parameters of item {index} are {parameters!r:.80}; they must be JSON") from None
    if not isinstance(parameters, Mapping):
        raise DataError(f"the parameters of item {index} are {parameters!r:.80}; they must be an object")
    return Message(Role.ASSISTANT, format_tool_call(parameters), name)


def _observation(index: int, item: Mapping[str, Any]) -> str:
    if "observation" not in item:
        raise DataError(f"item {index} is a tool item without 'observation'")
    found = item["observation"]
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _openai(row: Mapping[str, Any]) -> Sample:
    messages: list[Message] = []
    loss: list[bool | None] = []
    for index, item in enumerate(_items(row, "messages")):
        if item.get("weight") not in (None, 0, 1):
            raise DataError(f"the weight of message {index} is {item['weight']!r}; it must be 0 or 1")
        found = from_openai([item])
        messages += found
        loss += [None if item.get("weight") is None else bool(item["weight"])] * len(found)
    return _sample("openai", row, messages, loss, row.get("tools") or row.get("functions"), _items(row, "messages"))


def _sharegpt(row: Mapping[str, Any]) -> Sample:
    messages = [Message(Role.SYSTEM, _word(row, "system"))] if row.get("system") else []
    for index, item in enumerate(_items(row, "conversations")):
        speaker, said = item.get("from"), item.get("value")
        if speaker == "function_call":
            messages += _sharegpt_call(index, said)
            continue
        if speaker not in _SHAREGPT:
            known = ", ".join([*_SHAREGPT, "function_call"])
            raise DataError(f"item {index} is from {speaker!r}; it must be from one of: {known}")
        messages.append(Message(_SHAREGPT[speaker], said))  # type: ignore[arg-type]  # which is checked there
    return _sample("sharegpt", row, messages, None, row.get("tools"), _items(row, "conversations"))


def _sharegpt_call(index: int, said: Any) -> list[Message]:
    try:
        call = json.loads(said) if isinstance(said, str) else said
    except (ValueError, RecursionError) as error:
        raise DataError(f"the call of item {index} is {said!r:.80}; it must be JSON: {error}") from None
    calls = call if isinstance(call, list) else [call]
    return from_openai([{"role": "assistant", "content": None, "tool_calls": calls}])


def _items(row: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    items = row[name]
    if not isinstance(items, list) or not items:
        raise DataError(f"its {name!r} are {items!r:.80}; they must be a list that is not empty")
    wrong = next((item for item in items if not isinstance(item, Mapping)), None)
    if wrong is not None:
        raise DataError(f"its {name!r} hold {wrong!r:.80}; each must be an object")
    return items


def _sample(
    kind: Format,
    row: Mapping[str, Any],
    messages: Sequence[Message],
    loss: Iterable[bool | None] | None = None,
    tools: Any = None,
    items: Sequence[Mapping[str, Any]] = (),
) -> Sample:
    learned: tuple[bool | None, ...] = (None,) * len(messages) if loss is None else tuple(loss)
    if tools:
        if not isinstance(tools, list):
            raise DataError(f"its tools are {tools!r:.80}; they must be a list")
        offered = with_tools(messages, tools)
        learned = (None,) * (len(offered) - len(messages)) + learned
        messages = offered
    _check_tools(messages)
    return Sample(tuple(messages), learned, unused=_unused(kind, row, items))


def _check_tools(messages: Sequence[Message]) -> None:
    names = tool_names(messages[0].tools) if messages else []
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PromptError(f"two tools are named {twice!r}; each tool must have a name of its own")


def _unused(kind: Format, row: Mapping[str, Any], items: Sequence[Mapping[str, Any]] = ()) -> tuple[str, ...]:
    unknown = {str(name) for name in row if name not in _USED[kind]}
    unknown |= {f"{name} of a message" for item in items for name in item if name not in _ITEM_KEYS.get(kind, item)}
    return tuple(sorted(unknown))


_READERS = {
    "official": _official, "openai": _openai, "sharegpt": _sharegpt, "alpaca": _alpaca, "chatglm2": _chatglm2,
    "text": _text,
}  # fmt: skip
