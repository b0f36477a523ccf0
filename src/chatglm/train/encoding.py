"""From what a row says to token ids and which of them are learned: the same `render` that prompts come from."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chatglm.chat.message import INTERPRETER, Role
from chatglm.chat.template import validate
from chatglm.errors import DataError, PromptError
from chatglm.train.formats import Columns, sample_of
from chatglm.train.rows import Row
from chatglm.train.sample import Sample

if TYPE_CHECKING:
    from chatglm.model.tokenizer import ChatGLMTokenizer

_TOLD = 20  # bad rows that a message names


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, and for each whether the model is trained to predict it; or the number of the text's label."""

    ids: list[int]
    learned: list[bool]
    label: int | None = None


@dataclass
class Report:
    """What was met while rows were read.

    Attributes:
        rows: read, without bad ones.
        bad: place and reason of rows that are left out.
        cut: place and length of rows that were longer than `max_length`.
        unused: how often a key was met that says nothing here.
        kinds: how many rows hold tools, code, plain talk, text.
    """

    rows: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    cut: list[tuple[str, int]] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, sample: Sample) -> None:
        """Count a row that is good."""
        self.rows += 1
        self.unused.update(sample.unused)
        self.kinds[kind_of(sample)] += 1

    def problems(self) -> str:
        """Bad rows in words, one on a line."""
        lines = [f"{place}: {reason}" for place, reason in self.bad[:_TOLD]]
        more = [f"... and {len(self.bad) - _TOLD} more"] if len(self.bad) > _TOLD else []
        return "\n".join([*lines, *more])


def encode(sample: Sample, tokenizer: "ChatGLMTokenizer") -> Example:
    """Ids and labels of a conversation, whole.

    The official rule: a token is learned when the token before it belongs to the assistant, so what ends an answer is
    learned and `<|assistant|>` is not. It ends with end-of-text.

    Raises:
        PromptError: a conversation that breaks the rules of the format. DataError: an empty answer, or no answer.
    """
    validate(sample.messages, version=tokenizer.version)
    for index, message in enumerate(sample.messages):
        if message.role is Role.ASSISTANT and not message.content.strip() and sample.loss[index] is not False:
            raise DataError(f'message {index} is an empty answer; give it text, or "loss": false')
    rendered = tokenizer.render(sample.messages, add_generation_prompt=False, add_eos=True, loss=sample.loss)
    if not any(rendered.loss_mask):
        raise DataError("nothing in it is learned; it must hold an answer")
    return Example(rendered.ids, rendered.loss_mask)


def fitted(example: Example, max_length: int) -> Example:
    """The example, cut at `max_length` tokens.

    Raises:
        DataError: nothing that is left of it is learned.
    """
    if len(example.ids) <= max_length:
        return example
    if not any(example.learned[:max_length]):
        first = example.learned.index(True) + 1
        raise DataError(f"cut at {max_length} tokens nothing in it is learned; its answer begins at {first}")
    return Example(example.ids[:max_length], example.learned[:max_length])


def encode_text(text: str, tokenizer: "ChatGLMTokenizer", max_length: int) -> Iterator[Example]:
    """A text in pieces of at most `max_length` tokens, of which all are learned; the last one ends with end-of-text."""
    ids = tokenizer(text)["input_ids"]
    start = [tokenizer.chat_specials[name] for name in ("[gMASK]", "sop")]
    body = [*ids[len(start) :], tokenizer.tokenizer.eos_id]
    step = max_length - len(start)
    for first in range(0, len(body), step):
        piece = body[first : first + step]
        yield Example(start + piece, [False] * len(start) + [True] * len(piece))


def examples(
    rows: Iterable[Row],
    tokenizer: "ChatGLMTokenizer",
    max_length: int,
    report: Report,
    columns: Columns | None = None,
) -> Iterator[Example]:
    """The examples of rows, cut at `max_length` tokens; what is met on the way is told in `report`."""
    for row in rows:
        try:
            if row.problem is not None:
                raise DataError(row.problem)
            sample = sample_of(row.value, columns)
            if sample.text is not None:
                report.add(sample)
                yield from encode_text(sample.text, tokenizer, max_length)
                continue
            example = encode(sample, tokenizer)
            cut = fitted(example, max_length)
        except (DataError, PromptError) as error:
            report.bad.append((row.place, str(error)))
            continue
        report.add(sample)
        if len(example.ids) > max_length:
            report.cut.append((row.place, len(example.ids)))
        yield cut


def kind_of(sample: Sample) -> str:
    """text, code, tools or chat."""
    if sample.text is not None:
        return "text"
    names = {message.metadata for message in sample.messages if message.role is Role.ASSISTANT} - {""}
    if INTERPRETER in names:
        return "code"
    return "tools" if names or any(message.tools is not None for message in sample.messages) else "chat"
