"""Padded batches of similar length, drawn from the stream of conversations; the same for the same seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from chatglm.demo.conversation import conversation
from chatglm.demo.encoding import Encoder, Example
from chatglm.demo.recipe import LONGEST_CONVERSATION, Recipe


@dataclass(frozen=True)
class Batch:
    """Inputs and what follows them. Padding lies on the right, where a causal network does not see it."""

    input_ids: Tensor  # [rows, columns]
    targets: Tensor  # [rows, columns], the next id
    learned: Tensor  # [rows, columns] bool, whether the next id counts

    @property
    def num_tokens(self) -> int:
        """Tokens that went through the network, padding included."""
        return self.input_ids.numel()


def collate(examples: list[Example]) -> Batch:
    """Pad examples on the right to the longest of them."""
    length = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    learned = torch.zeros(len(examples), length, dtype=torch.bool)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        learned[row, : len(example.ids)] = torch.tensor(example.learned)
    return Batch(ids[:, :-1], ids[:, 1:], learned[:, 1:])


def pool_batches(encoder: Encoder, recipe: Recipe, index: int, progress: float) -> Iterator[Batch]:
    """The batches of one pool of conversations, in random order; `index` counts pools from the start of training."""
    rng = random.Random(recipe.seed * 1_000_003 + index)
    drawn = (encoder.example(conversation("train", rng, progress)) for _ in range(recipe.pool))
    examples = sorted((one for one in drawn if len(one.ids) <= LONGEST_CONVERSATION), key=lambda one: len(one.ids))
    groups = list(_groups(examples, recipe.batch_tokens))
    rng.shuffle(groups)
    return map(collate, groups)


def _groups(examples: list[Example], batch_tokens: int) -> Iterator[list[Example]]:
    """Cut sorted examples where rows times the longest row would exceed the limit."""
    group: list[Example] = []
    for example in examples:
        if group and (len(group) + 1) * len(example.ids) > batch_tokens:
            yield group
            group = []
        group.append(example)
    if group:
        yield group
