"""What settings do to scores: all rows at once, as one by one by the rules of the oracle here; constraints besides."""

import random
from typing import Any

import pytest
import torch
from constraints import Counting, CountingTogether

from chatglm.engine.bad_words import BadWords, TokenTexts
from chatglm.engine.drawing import Room
from chatglm.engine.edits import Edits
from chatglm.engine.request import Request, SamplingParams
from chatglm.engine.rows import Context, Row
from chatglm.engine.sampling import INVALID, Sampler
from chatglm.engine.token_counts import TokenCounts
from chatglm.errors import RequestError

SIZE = 90  # neither a multiple of 32 nor of 8
TEXTS = TokenTexts([chr(97 + token % 26).encode() * (1 + token % 2) for token in range(SIZE)])


def expected(scores: torch.Tensor, row: Row) -> torch.Tensor:
    """The rules, token by token."""
    params, prompt = row.request.params, row.request.prompt_ids
    scores = scores.clone()
    output = list(row.context)[len(prompt) :]
    for token in set(row.context):
        penalty = params.repetition_penalty
        scores[token] = scores[token] * penalty if scores[token] < 0 else scores[token] / penalty
    for token in set(output):
        scores[token] -= params.presence_penalty + params.frequency_penalty * output.count(token)
    for token, bias in params.logit_bias.items():
        scores[token] += bias
    banned = set(row.request.stop_ids) if row.num_output < params.min_tokens else set()
    text = b"".join(TEXTS.texts[token] for token in output)
    for token in range(SIZE):
        words = [word.encode() for word in params.bad_words]
        if any(word in (text + TEXTS.texts[token])[max(0, len(text) - len(word) + 1) :] for word in words):
            banned.add(token)
        ends = list(row.context) + [token]
        if any(ends[-len(word) :] == list(word) for word in params.bad_words_ids):
            banned.add(token)
    scores[list(banned)] = -torch.inf
    return scores


def some_request(dice: random.Random) -> Request:
    settings: dict[str, Any] = {
        "repetition_penalty": dice.choice([1.0, 1.0, 1.3, 0.7, 3.0]),
        "presence_penalty": dice.choice([0.0, 0.0, 0.7, -0.5]),
        "frequency_penalty": dice.choice([0.0, 0.0, 0.4]),
        "logit_bias": dice.choice([{}, {5: 1.5, 89: -2.0, 7: -torch.inf}]),
        "bad_words": dice.choice([[], ["a", "bbc"], ["dd"]]),
        "bad_words_ids": dice.choice([[], [[3], [4, 5], [1, 2, 3]]]),
        "min_tokens": dice.choice([0, 4]),
    }
    prompt = [dice.randrange(SIZE) for _ in range(dice.randint(1, 60))]
    request = Request(prompt, SamplingParams(max_tokens=50, **settings), frozenset({1, 88}))
    if request.params.bad_words:
        request.bad_words = BadWords(TEXTS, request.params.bad_words)
    return request


@pytest.mark.parametrize("seed", range(6))
def test_all_rows_at_once_as_one_by_one(seed: int) -> None:
    """Over texts that grow, with drafts that are taken back, in any company: the rules of each request hold."""
    dice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    requests = [some_request(dice) for _ in range(7)]
    for _ in range(12):
        rows = []
        for request in dice.sample(requests, dice.randint(1, 7)):
            drafts = [dice.randrange(SIZE) for _ in range(dice.choice([0, 0, 1, 4]))]
            rows += [Row(request, Context(request.token_ids, drafts, n)) for n in range(len(drafts) + 1)]
        scores = 3 * torch.randn(len(rows), SIZE, generator=generator)
        found, edits = scores.clone(), Edits(rows, SIZE, scores.device)
        for start in range(0, len(rows), 4):  # in parts, as on a CPU
            edits.apply(found[start : start + 4], start, Room())
        wanted = torch.stack([expected(score, row) for score, row in zip(scores, rows, strict=True)])
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-6)
        assert not edits.errors
        for request in requests:
            request.token_ids += [dice.randrange(SIZE) for _ in range(dice.choice([0, 1, 1, 3]))]


def test_counts_go_back_as_they_came() -> None:
    counts = TokenCounts([1, 2, 1], {4: 0.5}, [6], (1.0, 0.5), 40, seen=True)
    before = bytes(counts.seen), dict(zip(counts.ids, counts.values, strict=True))
    assert before == (bytes([0b110, 0, 0, 0, 0, 0, 0, 0]), {4: 0.5, 6: -torch.inf})
    counts.follow([1, 2, 1, 2, 4, 4, 9])
    assert counts.seen == bytes([0b10110, 0b10, 0, 0, 0, 0, 0, 0])
    assert dict(zip(counts.ids, counts.values, strict=True)) == {4: -1.5, 6: -torch.inf, 2: -1.5, 9: -1.5}
    counts.rewind(3)
    now = dict(zip(counts.ids, counts.values, strict=True))
    assert (bytes(counts.seen), {token: value for token, value in now.items() if value}) == before


def test_tokens_without_a_score_touch_nobody_elses() -> None:
    """Where the output layer has fewer rows than ids are let through."""
    settings: Any = {"logit_bias": {9: 5.0}, "bad_words_ids": [[8]], "repetition_penalty": 2.0}
    first, second = (Request([7, 9, 1], SamplingParams(**chosen), frozenset()) for chosen in (settings, {"seed": 1}))
    scores = torch.ones(2, 6)
    Edits([Row(first, [7, 9, 1]), Row(second, [7])], 6, scores.device).apply(scores, 0, Room())
    assert scores.tolist() == [[1.0, 0.5, 1.0, 1.0, 1.0, 1.0], [1.0] * 6]


def constrained(make: Any = lambda: Counting(SIZE), **settings: Any) -> Request:
    return Request([5], SamplingParams(constraint=make, **settings), frozenset())


def test_a_constraint_leaves_only_what_it_allows() -> None:
    sampler, request = Sampler(), constrained(seed=3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(100):
        assert request.told is not None
        allowed = [(([0] + request.output_ids)[-1] + step) % SIZE for step in (1, 2)]
        (sampled,) = sampler.sample(torch.randn(1, SIZE, generator=generator), [Row(request, request.token_ids)])
        assert sampled.token_id in allowed
        request.token_ids.append(sampled.token_id)
    assert len({b - a for a, b in zip(request.output_ids, request.output_ids[1:], strict=False)}) > 1


def test_a_constraint_is_asked_along_the_draft_and_taken_back() -> None:
    """Behind a token it does not allow it is not asked, and told nothing."""
    request = constrained(temperature=0)
    drafts = [1, 3, 4, 50, 51]
    rows = [Row(request, Context(request.token_ids, drafts, n)) for n in range(len(drafts) + 1)]
    found = Sampler().sample(torch.zeros(len(rows), SIZE), rows)
    assert [one.token_id for one in found][:4] == [1, 2, 4, 5]
    assert request.told is not None
    constraint: Any = request.told.constraint
    assert (constraint.told, constraint.most_told) == ([0], 4)
    request.token_ids += [1, 2]
    assert Sampler().sample(torch.zeros(1, SIZE), [Row(request, request.token_ids)])[0].token_id == 3


def test_constraints_of_a_kind_are_asked_together() -> None:
    CountingTogether.calls.clear()
    requests = [constrained(lambda start=start: CountingTogether(SIZE, start), temperature=0) for start in range(9)]
    requests.insert(4, constrained(lambda: Counting(SIZE, 40), temperature=0))
    rows = [Row(request, request.token_ids) for request in requests]
    logits = torch.arange(SIZE).float().expand(10, -1).clone()
    assert [one.token_id for one in Sampler().sample(logits, rows)] == [2, 3, 4, 5, 42, 6, 7, 8, 9, 10]
    assert CountingTogether.calls == [9]


@pytest.mark.parametrize("method", ["accept", "fill", "fill_many", "rollback"])
def test_a_constraint_that_fails_ends_its_own_request(method: str) -> None:
    class Broken(CountingTogether):
        broken = False

        def __getattribute__(self, name: str) -> Any:
            if name == method and object.__getattribute__(self, "broken"):
                raise RuntimeError("no grammar today")
            return object.__getattribute__(self, name)

        @staticmethod
        def fill_many(asked: Any, rows: torch.Tensor) -> None:
            if method == "fill_many":
                raise RuntimeError("not together")
            CountingTogether.fill_many(asked, rows)

    good, bad = (constrained(lambda: Broken(SIZE), temperature=0) for _ in range(2))
    assert bad.told is not None
    bad.told.constraint.broken = method != "fill_many"  # type: ignore[attr-defined]
    for request in (good, bad):
        request.token_ids.append(1)
    rows = [Row(request, Context(request.token_ids, [2], n)) for request in (good, bad) for n in (0, 1)]
    found = Sampler().sample(torch.zeros(4, SIZE), rows)
    assert [one.token_id for one in found[:2]] == [2, 3]
    if method == "fill_many":
        assert [one.token_id for one in found[2:]] == [2, 3], "they are asked one by one"
    else:
        assert found[2].token_id == INVALID
        assert "the constraint failed: RuntimeError('no grammar today')" in found[2].error


def test_a_constraint_has_the_last_word() -> None:
    def wants_fifty(output_ids: Any, logits: torch.Tensor) -> None:
        logits[50] += 1e6

    request = constrained(temperature=0, hook=wants_fifty, logit_bias={60: 1e6})
    assert Sampler().sample(torch.zeros(1, SIZE), [Row(request, request.token_ids)])[0].token_id == 1
    with pytest.raises(RequestError, match="constraint is 5; it must be None or a function"):
        SamplingParams(constraint=5)  # type: ignore[arg-type]


def test_log_probabilities_are_those_before_any_setting() -> None:
    """Whatever else is in the batch, and however many others want."""
    dice, generator = random.Random(0), torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(20, SIZE, generator=generator)).round()  # with equals
    rows = []
    for index in range(20):
        wish = {"logprobs": dice.choice([None, 0, 3, 20]), "seed": index}
        if index % 3:
            wish |= {"repetition_penalty": 1.5, "frequency_penalty": 1.0, "logit_bias": {8: 9.0}}
        rows.append(Row(Request([1, 2], SamplingParams(**wish), frozenset()), [1, 2, 8]))
    together = Sampler().sample(logits.clone(), rows)
    for index, row in enumerate(rows):
        found, top = together[index].logprobs, row.request.params.logprobs
        assert [together[index]] == Sampler().sample(logits[index : index + 1].clone(), [row])
        if top is None:
            assert found is None
            continue
        assert found is not None
        right = logits[index].log_softmax(0)
        assert found.logprob == pytest.approx(float(right[found.token_id]), abs=1e-5)
        assert [value for _, value in found.top] == pytest.approx(right.topk(top).values.tolist(), abs=1e-5)
        assert all(value == pytest.approx(float(right[token]), abs=1e-5) for token, value in found.top)
