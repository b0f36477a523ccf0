"""From the arguments of a tokenizer call to rows of ids: batches, pairs, words, cutting, special tokens, offsets."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils import logging

from chatglm.errors import PromptError
from chatglm.model.vocabulary import Offsets

logger = logging.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RowOptions:
    """What a call asks of every row. The names are transformers', without `return_`."""

    add_special_tokens: bool = True
    truncation: TruncationStrategy = TruncationStrategy.DO_NOT_TRUNCATE
    max_length: int | None = None
    stride: int = 0
    is_split_into_words: bool = False
    token_type_ids: bool = False
    overflowing_tokens: bool = False
    special_tokens_mask: bool = False
    offsets_mapping: bool = False
    length: bool = False
    split_special_tokens: bool = False


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sequence without special tokens."""

    ids: list[int]
    offsets: Offsets | None = None


class RowSource(Protocol):
    """What of a tokenizer the rows are made with."""

    truncation_side: str

    def encode_text(self, text: str, plain: bool) -> list[int]:
        """Ids of one text; `plain`: no special token is recognised."""

    def encode_texts(self, texts: list[str], plain: bool) -> list[list[int]]:
        """The same for many."""

    def text_offsets(self, text: str, ids: list[int], plain: bool) -> Offsets:
        """Where the ids stand in the text."""

    def get_prefix_tokens(self) -> list[int]:
        """What every input begins with."""

    def get_end_tokens(self) -> list[int]:
        """What a pair ends with."""


class RowMaker:
    """Makes the rows of one call, not yet padded."""

    def __init__(self, source: RowSource, options: RowOptions) -> None:
        self.source, self.options = source, options

    def rows(self, texts: Iterable[Any], pairs: Any) -> list[dict[str, Any]]:
        """A row for each text, or pair of texts.

        Raises:
            PromptError: something that is no text, no list of words (where asked for) and no list of ids.
        """
        firsts, seconds = self._sequences(list(texts), pairs)
        encoded = zip(self._encode_all(firsts), self._encode_all(seconds), strict=True)
        return [self._row(first, second) for first, second in encoded]

    def _sequences(self, firsts: list[Any], pairs: Any) -> tuple[list[Any], list[Any]]:
        """First and second sequences. Without `pairs`, an item may itself be a pair of texts."""
        if pairs is None:
            split = [self._split_pair(item) for item in firsts]
            return [first for first, _ in split], [second for _, second in split]
        if not isinstance(pairs, (list, tuple)) or len(pairs) != len(firsts):
            raise PromptError(f"text_pair must be a batch of {len(firsts)} texts, as many as there are first texts")
        return firsts, list(pairs)

    def _split_pair(self, item: Any) -> tuple[Any, Any]:
        parts = (list, tuple) if self.options.is_split_into_words else str
        is_pair = isinstance(item, (list, tuple)) and len(item) == 2 and all(isinstance(part, parts) for part in item)
        return (item[0], item[1]) if is_pair else (item, None)

    def _encode_all(self, items: list[Any]) -> list[Encoded | None]:
        if not self.options.offsets_mapping and all(isinstance(item, str) for item in items):
            return [Encoded(ids) for ids in self.source.encode_texts(items, self.options.split_special_tokens)]
        return [None if item is None else self._encode(item) for item in items]

    def _encode(self, item: Any) -> Encoded:
        plain, offsets = self.options.split_special_tokens, self.options.offsets_mapping
        if isinstance(item, str):
            ids = self.source.encode_text(item, plain)
            return Encoded(ids, self.source.text_offsets(item, ids, plain) if offsets else None)
        words = self.options.is_split_into_words
        if isinstance(item, (list, tuple)) and words and all(isinstance(word, str) for word in item):
            parts = [self._encode(word) for word in item]
            places = [place for part in parts for place in part.offsets or ()]
            return Encoded([token_id for part in parts for token_id in part.ids], places if offsets else None)
        if isinstance(item, (list, tuple)) and not words and all(isinstance(token_id, int) for token_id in item):
            if offsets:
                raise PromptError("offsets are asked of token ids; they are known for texts only")
            return Encoded(list(item))
        wanted = "a list of words" if words else "a text, or a list of token ids"
        raise PromptError(f"cannot tokenize {str(item)[:60]!r} ({type(item).__name__}); it must be {wanted}")

    def _row(self, first: Encoded | None, second: Encoded | None) -> dict[str, Any]:
        if first is None:
            raise PromptError("the text is None; it must be a text")
        options = self.options
        excess = self._excess(first, second)
        ids, pair, overflow = self._cut(first.ids, None if second is None else second.ids, excess)
        row: dict[str, Any] = {"input_ids": self._join(ids, pair, self.source.get_prefix_tokens(), self._end(pair))}
        rest, end = len(pair or ()), len(self._end(pair))
        if options.offsets_mapping:
            places = self._cut(first.offsets, None if second is None else second.offsets, excess)
            row["offset_mapping"] = self._join(*places[:2], [(0, 0)] * 2, [(0, 0)] * end)
        if options.token_type_ids:
            own = rest + end * options.add_special_tokens
            row["token_type_ids"] = [0] * (len(row["input_ids"]) - own) + [1] * own
        if options.special_tokens_mask:
            row["special_tokens_mask"] = self._join([0] * len(ids), [0] * rest, [1] * 2, [1] * end)
        if options.overflowing_tokens and overflow:
            row.update(overflowing_tokens=overflow, num_truncated_tokens=excess)
        if options.length:
            row["length"] = len(row["input_ids"])
        return row

    def _end(self, pair: Any) -> list[int]:
        return [] if pair is None else self.source.get_end_tokens()

    def _excess(self, first: Encoded, second: Encoded | None) -> int:
        """How many tokens are to be cut off."""
        options = self.options
        if options.truncation == TruncationStrategy.DO_NOT_TRUNCATE or not options.max_length:
            return 0
        length = len(first.ids) + (0 if second is None else len(second.ids))
        if options.add_special_tokens:
            length += len(self.source.get_prefix_tokens()) + len(self._end(second))
        return max(0, length - options.max_length)

    def _cut(self, ids: Any, pair: Any, excess: int) -> tuple[Any, Any, list[Any]]:
        """The sequences without their excess, by transformers' rules, and what was cut off where that is one piece."""
        strategy, wants_overflow = self.options.truncation, self.options.overflowing_tokens
        if not excess:
            return ids, pair, []
        if strategy == TruncationStrategy.LONGEST_FIRST and pair is not None:
            if wants_overflow:
                raise PromptError("overflowing tokens are not known for pairs with 'longest_first'; use 'only_first'")
            of_ids, of_pair = _shares(len(ids), len(pair), excess)
            return self._drop(ids, of_ids), self._drop(pair, of_pair), []
        second = strategy == TruncationStrategy.ONLY_SECOND
        cut = pair if second else ids
        if cut is None or (len(cut) <= excess and strategy != TruncationStrategy.LONGEST_FIRST):
            logger.error(f"{excess} tokens too many, and {strategy.value!r} leaves nothing to cut: nothing was cut")
            return ids, pair, []
        window = min(len(cut), self.options.stride + excess)
        overflow = cut[:window] if self.source.truncation_side == "left" else cut[len(cut) - window :]
        kept = self._drop(cut, excess)
        return (ids, kept, overflow) if second else (kept, pair, overflow)

    def _drop(self, values: Any, count: int) -> Any:
        return values[count:] if self.source.truncation_side == "left" else values[: max(0, len(values) - count)]

    def _join(self, ids: Any, pair: Any, prefix: list[Any], end: list[Any]) -> list[Any]:
        """A sequence and its pair, or what goes with them, between what stands for the special tokens."""
        body = [*ids, *(pair or ())]
        return [*prefix, *body, *end] if self.options.add_special_tokens else body


def _shares(length: int, pair_length: int, excess: int) -> tuple[int, int]:
    """How much of each of a pair is cut off: from the longer one until they are equal, then in turn."""
    alone = min(abs(length - pair_length), excess)
    half = (excess - alone) // 2
    rest = excess - alone - half
    return (half + alone, rest) if length > pair_length else (half, rest + alone)


def is_batch(text: Any, words: bool) -> bool:
    """Whether the argument of a call is many texts; with `words`, many lists of words. transformers' rule."""
    if not isinstance(text, (list, tuple)):
        return False
    if not text:
        return not words
    return isinstance(text[0], (list, tuple) if words else (str, list, tuple))
