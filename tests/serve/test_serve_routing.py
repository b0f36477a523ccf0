"""Which replica answers: laws of the routing that the cluster uses and the benchmark simulates."""

import json

from hypothesis import given
from hypothesis import strategies as st

from chatglm.serve.routing import BLOCK, SESSION_BLOCKS, Router, blocks_of, text_of

LOADS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9), min_size=1)
CHAINS = st.lists(st.integers(0, 6), max_size=6)
HISTORY = st.lists(st.tuples(CHAINS, st.sampled_from("abcdef")), max_size=12)


def router(history, **options):
    made = Router(**options)
    for blocks, replica in history:
        made.note(blocks, replica)
    return made


@given(HISTORY, CHAINS, LOADS)
def test_every_replica_is_ranked_once_and_asking_changes_nothing(history, blocks, load):
    made = router(history)
    ranked = made.ranked(blocks, load)
    assert sorted(ranked) == sorted(load)
    assert made.ranked(blocks, load) == ranked
    assert made.first(blocks, load) == ranked[0]


@given(HISTORY, CHAINS, LOADS)
def test_the_first_is_the_cheapest(history, blocks, load):
    made = router(history, weight=2.0)
    matched = made.matched(blocks)
    cost = {name: 2.0 * load[name] - matched.get(name, 0) for name in load}
    assert cost[made.ranked(blocks, load)[0]] == min(cost.values())


@given(HISTORY, CHAINS)
def test_what_matches_is_a_beginning_of_what_was_noted(history, blocks):
    known = {name: {block for chain, at in history if at == name for block in chain} for name in "abcdef"}
    for name, count in router(history).matched(blocks).items():
        assert set(blocks[:count]) <= known[name]
        assert count == len(blocks) or blocks[count] not in known[name]


@given(HISTORY, CHAINS)
def test_no_more_is_remembered_than_there_is_room_and_nothing_of_the_gone(history, blocks):
    made = router(history, capacity=3)
    assert all(len(known) <= 3 for known in made._known.values())
    made.keep_only("ab")
    assert set(made.matched(blocks)) <= set("ab")
    assert all(knowers <= set("ab") and knowers for knowers in made._knowers.values())


def test_of_a_beginning_the_end_is_forgotten_first():
    made = router([([1, 2, 3, 4], "a")], capacity=2)
    assert made.matched([1, 2, 3, 4]) == {"a": 2}


def test_a_conversation_stays_where_it_began_until_that_is_much_busier():
    made = router([([1, 2, 3], "a"), ([1], "b")], weight=2.0)
    assert made.ranked([1, 2, 3, 4], {"a": 1, "b": 1})[0] == "a"
    assert made.ranked([1, 2, 3, 4], {"a": 2, "b": 0})[0] == "b"


@given(st.binary(max_size=5 * BLOCK), st.binary(max_size=2 * BLOCK), st.sampled_from(["", "me"]))
def test_blocks_tell_beginnings(text, more, session):
    blocks = blocks_of(text, session)
    assert blocks_of(text + more, session)[: len(blocks)] == blocks
    assert len(blocks) == len(text) // BLOCK + (SESSION_BLOCKS if session else 0)
    if text:
        changed = bytes([text[0] ^ 1]) + text[1:]
        assert not set(blocks_of(changed)) & set(blocks_of(text))


def test_a_longer_conversation_begins_as_the_shorter_one_whatever_else_is_asked():
    said = [{"role": "user", "content": "x" * BLOCK}, {"role": "assistant", "content": "y" * BLOCK}]
    first = text_of(json.dumps({"model": "m", "max_tokens": 5, "messages": said[:1], "tools": []}).encode())
    second = text_of(json.dumps({"tools": [], "messages": said, "model": "m", "prompt_cache_key": "me"}).encode())
    assert second[0].startswith(first[0])
    assert (first[1], second[1]) == ("", "me")


@given(st.binary(max_size=50) | st.sampled_from([b"[]", b"null", b'{"messages": 5, "prompt_cache_key": 1}', b"\xff"]))
def test_what_cannot_be_read_is_routed_all_the_same(body):
    text, session = text_of(body)
    assert isinstance(text, bytes)
    assert isinstance(session, str)
