"""Rows that hold two answers, of which the first is preferred: what DPO learns from.

| row | in use by |
|---|---|
| `{"prompt": "...", "chosen": "...", "rejected": "...", "history", "system"}` | trl; ChatGLM's history |
| `{"prompt": [message, ...], "chosen": [message, ...], "rejected": [message, ...], "tools"}` | trl |
| `{"chosen": [message, ...], "rejected": [message, ...], "tools"}`: whole conversations | trl |
| `{"messages" or "conversations": [...], "chosen": ..., "rejected": ..., "tools"}` | LLaMA-Factory |
| `{"instruction", "input", "chosen", "rejected", "history", "system"}` | LLaMA-Factory |

Each is read as two rows of the spellings in `formats.py`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from chatglm.chat.message import Role
from chatglm.errors import DataError, PromptError
from chatglm.train.encoding import Example, Report, encode, fitted
from chatglm.train.formats import opened, sample_of
from chatglm.train.rows import Row
from chatglm.train.sample import Sample

if TYPE_CHECKING:
    from chatglm.model.tokenizer import ChatGLMTokenizer

_NAMES = ("prompt", "chosen", "rejected", "history")


@dataclass(frozen=True, slots=True)
class PairColumns:
    """Our names of columns by those of a file."""

    names: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> "PairColumns":
        """`question,better,worse` or `question,better,worse,earlier`.

        Raises:
            DataError: not three or four names.
        """
        names = [name.strip() for name in text.split(",")]
        if not 3 <= len(names) <= 4 or not all(names):
            raise DataError(f"columns are {text!r}; of pairs they must be three or four names: prompt,chosen,rejected")
        return cls(dict(zip(names, _NAMES, strict=False)))


def pair_of(value: Any, columns: PairColumns | None = None) -> tuple[Sample, Sample]:
    """The two conversations of a row, the preferred one first. What they have in common is not learned.

    Raises:
        DataError: it is no pair, or its conversations do not differ in an answer.
        PromptError: a conversation that breaks the rules of the chat format.
    """
    if not isinstance(value, Mapping):
        raise DataError(f"it is {value!r:.80}; a row must be an object")
    row = {name if columns is None else columns.names.get(name, name): one for name, one in value.items()}
    missing = next((name for name in ("chosen", "rejected") if name not in row), None)
    if missing is not None:
        raise DataError(f"it has no {missing!r}; its keys are {', '.join(map(str, value)) or 'none'}")
    rest = {name: one for name, one in row.items() if name not in ("chosen", "rejected")}
    return _apart(*(sample_of(_answered(rest, row[name])) for name in ("chosen", "rejected")))


def pairs(
    rows: Iterable[Row],
    tokenizer: "ChatGLMTokenizer",
    max_length: int,
    report: Report,
    columns: PairColumns | None = None,
) -> Iterator[Example]:
    """The examples of all pairs: a preferred one, the other one, and so on. Report as of `encoding.examples`."""
    for row in rows:
        try:
            if row.problem is not None:
                raise DataError(row.problem)
            samples = pair_of(row.value, columns)
            whole = [encode(sample, tokenizer) for sample in samples]
            chosen, rejected = (fitted(example, max_length) for example in whole)
            if chosen == rejected:
                raise DataError(f"cut at {max_length} tokens its answers are the same")
        except (DataError, PromptError) as error:
            report.bad.append((row.place, str(error)))
            continue
        report.add(samples[0])
        longest = max(len(example.ids) for example in whole)
        if longest > max_length:
            report.cut.append((row.place, longest))
        yield from (chosen, rejected)


def _answered(rest: Mapping[str, Any], answer: Any) -> dict[str, Any]:
    """A row of one conversation: the pair's, with one of its answers."""
    if "messages" in rest or "conversations" in rest:
        name = "messages" if "messages" in rest else "conversations"
        items = opened(name, rest[name])
        if not isinstance(items, list):
            raise DataError(f"its {name!r} are {items!r:.80}; they must be a list")
        named = bool(items) and isinstance(items[0], Mapping) and "from" in items[0]
        return {**rest, name: [*items, *_turns(answer, {"from": "gpt"} if named else {"role": "assistant"})]}
    if "instruction" in rest:
        return {**rest, "output": _text(answer)}
    prompt = rest.get("prompt")
    others = {name: one for name, one in rest.items() if name != "prompt"}
    if isinstance(prompt, list):
        return {**others, "messages": [*prompt, *_turns(answer, {"role": "assistant"})]}
    if isinstance(answer, list):
        begun = not answer or not isinstance(answer[0], Mapping) or answer[0].get("role") != "assistant"
        asked = [] if prompt is None or begun else [{"role": "user", "content": prompt}]
        return {**others, "messages": [*asked, *answer]}
    if prompt is None:
        raise DataError("it has no 'prompt', 'instruction', 'messages' or 'conversations' that its answers belong to")
    return {**others, "instruction": prompt, "output": _text(answer)}


def _turns(answer: Any, who: Mapping[str, str]) -> list[Any]:
    if isinstance(answer, str):
        return [{**who, "value" if "from" in who else "content": answer}]
    return answer if isinstance(answer, list) else [answer]


def _text(answer: Any) -> str:
    if not isinstance(answer, str):
        raise DataError(f"an answer is {answer!r:.80}; behind a text it must be a text")
    return answer


def _apart(chosen: Sample, rejected: Sample) -> tuple[Sample, Sample]:
    """The same, with what both begin with not learned: it would cancel out."""
    both = zip(chosen.messages, rejected.messages, strict=False)
    common = next((index for index, (one, other) in enumerate(both) if one != other), None)
    if common is None:
        raise DataError(
            "its two answers are the same, or one conversation only goes on with the other; they must differ"
        )
    if any(sample.messages[common].role is not Role.ASSISTANT for sample in (chosen, rejected)):
        raise DataError(f"its two conversations differ in message {common} already, which is no answer")
    unlearned = (False,) * common
    first, second = (replace(one, loss=unlearned + one.loss[common:]) for one in (chosen, rejected))
    return first, second
