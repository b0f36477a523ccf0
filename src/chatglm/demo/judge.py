"""How many answers are exactly right, for each topic and split, on conversations that training never drew.

The score is that of greedy decoding, got without decoding: when every token of an accepted answer is the most likely
one after the tokens before it, greedy decoding writes exactly that answer and stops there.
"""

import argparse
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from chatglm.demo import WEIGHTS
from chatglm.demo.batches import collate
from chatglm.demo.conversation import Conversation, conversation, dialogue
from chatglm.demo.encoding import Encoder, Example
from chatglm.demo.text import SPLITS, Split, Turn
from chatglm.demo.topics import TOPICS
from chatglm.model.network import ChatGLMForConditionalGeneration

JUDGE_SEED = 987_654_321
_ROWS = 32
_WITH_EARLIER_TURNS = 0.5

Scores = dict[str, dict[str, float]]


def judge(
    model: ChatGLMForConditionalGeneration, encoder: Encoder, samples: int = 50, seed: int = JUDGE_SEED
) -> Scores:
    """Share of exact answers: `{split: {topic: share}}`; the entity split only where a topic has open entities."""
    scores: Scores = {}
    for split in SPLITS:
        topics = [name for name, topic in TOPICS.items() if split != "entity" or topic.open]
        scores[split] = {name: _score(model, encoder, name, split, samples, seed) for name in topics}
    return scores


def mean(scores: dict[str, float]) -> float:
    """The plain mean over topics."""
    return sum(scores.values()) / len(scores)


def mistakes(
    model: ChatGLMForConditionalGeneration,
    encoder: Encoder,
    name: str,
    split: Split,
    samples: int,
    seed: int = JUDGE_SEED,
) -> list[Conversation]:
    """The judged conversations whose last answer is not what greedy decoding gives."""
    found = list(islice(_questions(name, split, seed), samples))
    right = exact(model, encoder, found)
    return [one for one, correct in zip(found, right, strict=True) if not correct]


def exact(model: ChatGLMForConditionalGeneration, encoder: Encoder, conversations: list[Conversation]) -> list[bool]:
    """Whether greedy decoding of each conversation's last answer gives one of the accepted answers, and stops."""
    candidates = [(index, answer) for index, one in enumerate(conversations) for answer in one.turns[-1].accepted]
    examples = [_only_last(encoder, _with_answer(conversations[index], answer)) for index, answer in candidates]
    right = [False] * len(conversations)
    for start in range(0, len(examples), _ROWS):
        rows = _rows_exact(model, examples[start : start + _ROWS])
        for (index, _), row in zip(candidates[start : start + _ROWS], rows, strict=True):
            right[index] |= row
    return right


def _score(
    model: ChatGLMForConditionalGeneration, encoder: Encoder, name: str, split: Split, samples: int, seed: int
) -> float:
    right = exact(model, encoder, list(islice(_questions(name, split, seed), samples)))
    return sum(right) / len(right)


def _questions(name: str, split: Split, seed: int) -> Iterator[Conversation]:
    """Dialogues of one topic, half of them after some unrelated turns."""
    rng = random.Random(f"{seed} {name} {split}")
    while True:
        turns = tuple(dialogue(name, split, rng))
        earlier: tuple[Turn, ...] = ()
        if rng.random() < _WITH_EARLIER_TURNS:
            earlier = conversation("train", rng).turns
            earlier = () if any(turn.family in ("memory", "two_facts") for turn in earlier) else earlier[:4]
        yield Conversation(None, earlier + turns)


def _with_answer(one: Conversation, answer: str) -> Conversation:
    return replace(one, turns=(*one.turns[:-1], replace(one.turns[-1], answer=answer)))


def _only_last(encoder: Encoder, one: Conversation) -> Example:
    """Learned only in the last answer: everything from where the conversation without it ends."""
    whole = encoder.example(one)
    start = len(encoder.prompt(one.turns[:-1], one.turns[-1].user, one.system))
    return Example(whole.ids, [position >= start for position in range(len(whole.ids))])


@torch.no_grad()
def _rows_exact(model: ChatGLMForConditionalGeneration, examples: list[Example]) -> list[bool]:
    batch = collate(examples)
    device = next(model.parameters()).device
    hidden = model.transformer(input_ids=batch.input_ids.to(device), use_cache=False).last_hidden_state
    guesses = model.transformer.output_layer(hidden[batch.learned.to(device)]).argmax(-1).cpu()
    right = torch.ones_like(batch.learned)  # [rows, columns]
    right[batch.learned] = guesses == batch.targets[batch.learned]
    return [bool(row) for row in right.all(-1)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m chatglm.demo.judge", description=__doc__)
    parser.add_argument("--model", type=Path, default=WEIGHTS, help="model folder (default: the one in the package)")
    parser.add_argument("--samples", type=int, default=100, help="questions a topic and split (default 100)")
    parser.add_argument("--seed", type=int, default=JUDGE_SEED, help="seed of the questions")
    options = parser.parse_args(arguments)
    model = ChatGLMForConditionalGeneration.from_pretrained(options.model, dtype=torch.float32)
    scores = judge(model, Encoder(options.model / "tokenizer.model"), options.samples, options.seed)
    for split, found in scores.items():
        lines = [f"{name:14}{score:6.1%}" for name, score in found.items()]
        print("\n".join([f"{split:14}{mean(found):6.1%}", *lines, ""]))  # noqa: T201  the result of a command


if __name__ == "__main__":
    main()
