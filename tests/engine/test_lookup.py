"""Prompt lookup: what it guesses, and that wrong guesses become fewer."""

import pytest

from chatglm.engine.draft import Acceptance, Drafter, PromptLookup, cautious
from chatglm.engine.request import Request, SamplingParams

TEXT = list(range(100, 140))


def request(answer: list[int]) -> Request:
    made = Request(list(TEXT), SamplingParams(), frozenset())
    made.token_ids.extend(answer)
    return made


@pytest.mark.parametrize(
    ("answer", "guess"),
    [
        ([104, 105], [106, 107, 108]),
        ([104], []),  # one token is no place
        ([7, 8], []),
        ([120, 121, 104, 105], [106, 107, 108]),
        ([104, 105, 106, 104, 105], [106, 104, 105]),  # the last place counts
    ],
)
def test_what_follows_the_last_tokens_is_guessed(answer: list[int], guess: list[int]) -> None:
    assert PromptLookup().propose(request(answer), 3) == guess


def test_a_copy_goes_on_behind_an_edit() -> None:
    lookup, writing = PromptLookup(patience=2), request([104, 105])
    assert lookup.propose(writing, 2) == [106, 107]
    writing.token_ids.append(7)  # instead of 106
    assert lookup.propose(writing, 2) == [107, 108]
    writing.token_ids.append(8)
    assert lookup.propose(writing, 2) == [108, 109]
    writing.token_ids.append(9)
    assert lookup.propose(writing, 2) == [], "further away from what was copied than is worth a guess"
    writing.token_ids.extend([109, 110])
    assert lookup.propose(writing, 2) == [111, 112]


def test_every_fifth_token_changed_takes_a_step_for_five() -> None:
    lookup = PromptLookup()
    answer = [token if index % 5 else 7 for index, token in enumerate(TEXT)]
    writing, steps = request(answer[:3]), 0
    while len(writing.token_ids) < len(TEXT) + len(answer):
        known = len(writing.token_ids) - len(TEXT)
        guess = lookup.propose(writing, 5)
        right = next(
            (at for at, token in enumerate(guess) if answer[known + at : known + at + 1] != [token]), len(guess)
        )
        writing.token_ids.extend(answer[known : known + right + 1])
        steps += 1
    assert steps <= len(answer) / 5 + 1


def test_guesses_are_as_many_as_come_true() -> None:
    acceptance = Acceptance()
    assert acceptance.wanted() == 4
    for _ in range(4):
        acceptance.update(acceptance.wanted(), acceptance.wanted())
    assert acceptance.wanted() == 15
    for _ in range(20):
        wanted = acceptance.wanted()
        acceptance.update(wanted, min(4, wanted))
    assert 4 <= acceptance.wanted() <= 7, "four of five are right"


def test_wrong_guesses_become_few() -> None:
    acceptance, asked = Acceptance(), 0
    for _ in range(200):
        wanted = acceptance.wanted()
        asked += wanted
        if wanted:
            acceptance.update(wanted, 0)
    assert asked < 20
    while not acceptance.wanted():
        pass
    acceptance.update(1, 1)
    assert acceptance.wanted() > 0, "one that is right ends the rest"


def test_who_has_not_asked_gets_guesses_where_they_cost_little() -> None:
    drafter, plain = Drafter(None, by_itself=True), request([103, 104, 105, 106])
    assert drafter.may_guess(plain, 2)
    assert drafter(plain, 9) == [107], "one at first"
    assert not drafter.may_guess(plain, 3)
    assert not Drafter(None, by_itself=False).may_guess(plain, 1)
    hooked = Request([1], SamplingParams(hook=lambda ids, logits: None), frozenset())
    adapted = Request([1], SamplingParams(), frozenset(), "lora")
    assert not any(drafter.may_guess(one, 1) for one in (hooked, adapted))
    assert drafter(request([104, 105, 106]), 9) == [], "three tokens that agree are no copy"
    for draft, may in (("lookup", True), (None, False)):  # who has decided
        decided = Request([1], SamplingParams(draft=draft), frozenset())
        assert Drafter(None, by_itself=False).may_guess(decided, 50) is may


def test_a_cautious_request_loses_little_and_wins_much() -> None:
    wrong, steps = cautious(), 300
    rows = 0
    for _ in range(steps):
        wanted = wrong.wanted()
        rows += wanted
        if wanted:
            wrong.update(wanted, 0)
    assert rows <= 0.05 * steps
    right, tokens = cautious(), 0
    for _ in range(20):
        wanted = right.wanted()
        right.update(wanted, wanted)
        tokens += 1 + wanted
    assert tokens > 4 * 20
