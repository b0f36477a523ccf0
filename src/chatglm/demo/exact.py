"""How many answers are exactly right, for each topic and split, on conversations that training never drew.

The score is that of greedy decoding, got without decoding: when every token of an accepted answer is the most likely
one after the tokens before it, greedy decoding writes exactly that answer and stops there.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch

from chatglm.chat.message import Role
from chatglm.demo.conversation import Conversation, chat, dialogue, with_code, with_tools
from chatglm.demo.encoding import Encoder, Example
from chatglm.demo.packing import collate
from chatglm.demo.text import SPLITS, Split, Turn
from chatglm.demo.topics import TOPICS
from chatglm.model.network import ChatGLMForConditionalGeneration

JUDGE_SEED = 987_654_321
_ROWS = 32
_WITH_EARLIER_TURNS = 0.5
_ACTING: dict[str, tuple[Callable[[Split, random.Random], Conversation], tuple[Split, ...]]] = {
    "tools": (with_tools, ("train", "phrasing", "entity", "family")),
    "code": (with_code, ("train", "phrasing", "entity")),
}

Scores = dict[str, dict[str, float]]


def judge(
    model: ChatGLMForConditionalGeneration, encoder: Encoder, samples: int = 50, seed: int = JUDGE_SEED
) -> Scores:
    """Share of exact answers: `{split: {topic: share}}`; the entity split only where a topic has open entities.

    Of conversations with tools and code, `... call` is the share of calls or cells exactly as in the recipe,
    `... answer` that of answers, given the right results.
    """
    scores: Scores = {}
    for split in SPLITS:
        topics = [name for name, topic in TOPICS.items() if split != "entity" or topic.open]
        scores[split] = {name: _score(model, encoder, name, split, samples, seed) for name in topics}
    for kind, (make, splits) in _ACTING.items():
        for split in splits:
            calls, answers = acting(model, encoder, list(islice(acted(make, split, seed), samples)))
            scores.setdefault(split, {}).update({f"{kind} call": calls, f"{kind} answer": answers})
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
    found = list(islice(questions(name, split, seed), samples))
    right = exact(model, encoder, found)
    return [one for one, correct in zip(found, right, strict=True) if not correct]


def exact(model: ChatGLMForConditionalGeneration, encoder: Encoder, conversations: list[Conversation]) -> list[bool]:
    """Whether greedy decoding of each conversation's last answer gives one of the accepted answers, and stops."""
    candidates = [(index, answer) for index, one in enumerate(conversations) for answer in one.turns[-1].accepted]
    examples = [_only_last(encoder, _with_answer(conversations[index], answer)) for index, answer in candidates]
    right = [False] * len(conversations)
    for (index, _), row in zip(candidates, _all_exact(model, examples), strict=True):
        right[index] |= row
    return right


def acting(
    model: ChatGLMForConditionalGeneration, encoder: Encoder, conversations: list[Conversation]
) -> tuple[float, float]:
    """Shares of exact calls or cells, and of exact answers, in the last turns."""
    spans = [one for conversation in conversations for one in _spans(encoder, conversation)]
    right = _all_exact(model, [example for example, _ in spans])
    calls = [row for row, (_, call) in zip(right, spans, strict=True) if call]
    answers = [row for row, (_, call) in zip(right, spans, strict=True) if not call]
    return sum(calls) / max(1, len(calls)), sum(answers) / max(1, len(answers))


def acted(make: Callable[[Split, random.Random], Conversation], split: Split, seed: int) -> Iterator[Conversation]:
    """Conversations that end with a turn in which something is done."""
    rng = random.Random(f"{seed} acted {make.__name__} {split}")
    while True:
        one = make(split, rng)
        acting_turns = [index for index, turn in enumerate(one.turns) if turn.steps]
        if acting_turns:
            yield replace(one, turns=one.turns[: acting_turns[-1] + 1])


def questions(name: str, split: Split, seed: int) -> Iterator[Conversation]:
    """Dialogues of one topic, half of them after some unrelated turns."""
    rng = random.Random(f"{seed} {name} {split}")
    while True:
        turns = tuple(dialogue(name, split, rng))
        earlier: tuple[Turn, ...] = ()
        if rng.random() < _WITH_EARLIER_TURNS:
            earlier = chat("train", rng).turns
            earlier = () if any(turn.family in ("memory", "two_facts") for turn in earlier) else earlier[:4]
        yield Conversation(None, earlier + turns)


def _score(
    model: ChatGLMForConditionalGeneration, encoder: Encoder, name: str, split: Split, samples: int, seed: int
) -> float:
    right = exact(model, encoder, list(islice(questions(name, split, seed), samples)))
    return sum(right) / len(right)


def _with_answer(one: Conversation, answer: str) -> Conversation:
    return replace(one, turns=(*one.turns[:-1], replace(one.turns[-1], answer=answer)))


def _only_last(encoder: Encoder, one: Conversation) -> Example:
    """Learned only in the last answer: everything from where the conversation without it ends."""
    whole = encoder.example(one)
    start = len(encoder.render(one.messages()[:-1], asks=True).ids)
    return replace(whole, learned=[position >= start for position in range(len(whole.ids))])


def _spans(encoder: Encoder, one: Conversation) -> list[tuple[Example, bool]]:
    """One example for each thing the model says in the last turn, and whether it is a call or code."""
    whole, marked = encoder.example(one), one.marked()
    messages = [message for message, _ in marked]
    found = []
    for index in range(len(messages) - 1 - 2 * len(one.turns[-1].steps), len(messages)):
        message, learned = marked[index]
        if message.role is Role.ASSISTANT and learned:
            start = len(encoder.render(messages[:index], asks=True).ids)
            end = len(encoder.render(messages[: index + 1], asks=False).ids)  # what ends it counts too
            span = [start <= position <= end for position in range(len(whole.ids))]
            found.append((replace(whole, learned=span), message.metadata != ""))
    return found


def _all_exact(model: ChatGLMForConditionalGeneration, examples: Sequence[Example]) -> list[bool]:
    """In an order of their length, so that little is padded."""
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].ids))
    right = [False] * len(examples)
    for start in range(0, len(order), _ROWS):
        part = order[start : start + _ROWS]
        for index, row in zip(part, _rows_exact(model, [examples[index] for index in part]), strict=True):
            right[index] = row
    return right


@torch.no_grad()
def _rows_exact(model: ChatGLMForConditionalGeneration, examples: list[Example]) -> list[bool]:
    batch = collate(examples)
    device = next(model.parameters()).device
    hidden = model.transformer(input_ids=batch.input_ids.to(device), use_cache=False).last_hidden_state
    guesses = model.transformer.output_layer(hidden[batch.learned.to(device)]).argmax(-1).cpu()
    right = torch.ones_like(batch.learned)  # [rows, columns]
    right[batch.learned] = guesses == batch.targets[batch.learned]
    return [bool(row) for row in right.all(-1)]
