"""Rows of several conversations, drawn from the stream of text; the same for the same seed and shard.

A conversation sees nothing of its neighbours in a row: its positions begin at 0 and the mask ends where it begins.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chatglm.demo.conversation import conversation
from chatglm.demo.encoding import KINDS, Encoder, Example
from chatglm.demo.recipe import LONGEST_CONVERSATION, ROW_LENGTHS, Recipe

_FILLED = 0.97  # of a row, about; so many tokens are drawn for a shard


@dataclass(frozen=True)
class Batch:
    """Inputs and what follows them; all [rows, columns]. Padding lies at the end of a row."""

    input_ids: Tensor
    targets: Tensor  # the next id
    learned: Tensor  # bool, whether the next id counts
    positions: Tensor  # inside the conversation
    segments: Tensor  # which conversation of the row a token belongs to, from 1; 0 is padding
    kinds: Tensor  # index of the conversation's kind in `KINDS`

    @property
    def num_tokens(self) -> int:
        """Tokens of conversations, without padding."""
        return int((self.segments > 0).sum())


def pack(rows: Sequence[Sequence[Example]], length: int) -> Batch:
    """Lay conversations one behind the other, each without its last token, which is a target only."""
    parts = {name: torch.zeros(len(rows), length, dtype=torch.long) for name in Batch.__dataclass_fields__}
    for row, examples in enumerate(rows):
        start = 0
        for number, example in enumerate(examples, 1):
            ids = torch.tensor(example.ids)
            end = start + len(ids) - 1
            parts["input_ids"][row, start:end] = ids[:-1]
            parts["targets"][row, start:end] = ids[1:]
            parts["learned"][row, start:end] = torch.tensor(example.learned[1:])
            parts["positions"][row, start:end] = torch.arange(end - start)
            parts["segments"][row, start:end] = number
            parts["kinds"][row, start:end] = KINDS.index(example.kind)
            start = end
    parts["learned"] = parts["learned"].bool()
    return Batch(**parts)


def collate(examples: Sequence[Example]) -> Batch:
    """One conversation in each row, padded to the longest."""
    return pack([[example] for example in examples], max(len(example.ids) for example in examples) - 1)


def shard(encoder: Encoder, recipe: Recipe, index: int) -> list[Batch]:
    """The batches of one shard of the text, in random order; `index` counts shards from the start of training."""
    rng = random.Random(recipe.seed * 1_000_003 + index)
    examples = list(_drawn(encoder, recipe, rng, recipe.progress(index)))
    rows = _rows(examples)
    batches = [batch for length in ROW_LENGTHS for batch in _batches(rows, length, recipe.batch_tokens)]
    rng.shuffle(batches)
    return batches


def _drawn(encoder: Encoder, recipe: Recipe, rng: random.Random, progress: float) -> Iterator[Example]:
    left = _FILLED * recipe.shard_batches * recipe.batch_tokens
    while left > 0:
        example = encoder.example(conversation("train", rng, progress))
        if len(example.ids) <= LONGEST_CONVERSATION:
            left -= len(example.ids)
            yield example


@dataclass
class _Row:
    """A row that is being filled."""

    length: int
    room: int
    examples: list[Example]


def _rows(examples: Sequence[Example]) -> list[_Row]:
    """The longest first, each into the first row with room for it; a new row is the shortest that holds it."""
    rows: list[_Row] = []
    for example in sorted(examples, key=lambda one: -len(one.ids)):
        needed = len(example.ids) - 1
        row = next((row for row in rows if row.room >= needed), None)
        if row is None:
            length = next(length for length in ROW_LENGTHS if length >= needed)
            row = _Row(length, length, [])
            rows.append(row)
        row.examples.append(example)
        row.room -= needed
    return rows


def _batches(rows: Sequence[_Row], length: int, batch_tokens: int) -> Iterator[Batch]:
    """The rows of one length, so many together as a step takes."""
    filled = [row.examples for row in rows if row.length == length]
    step = batch_tokens // length
    for start in range(0, len(filled), step):
        yield pack(filled[start : start + step], length)
