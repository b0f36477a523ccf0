"""The generated text: the same for the same seed, always a valid conversation, held-out parts really held out."""

import random
from itertools import islice

import pytest

from chatglm.chat.template import validate
from chatglm.demo import pools, text
from chatglm.demo.conversation import Conversation, dialogue, stream
from chatglm.demo.text import SPLITS, Intent, Turn, expand, habits, held_out, phrasings
from chatglm.demo.topics import TOPICS
from chatglm.demo.wording import FOLDER, read_intents, read_sections

TALK = ("greetings", "identity", "small_talk", "offline", "daily")
INTENT_FILES = (*TALK, "calendar", "things")


def sample(seed: int, count: int, **options: object) -> list[Conversation]:
    return list(islice(stream(seed, **options), count))


def test_a_seed_decides_the_text() -> None:
    assert sample(7, 300) == sample(7, 300)
    assert sample(7, 300) != sample(8, 300)


@pytest.mark.parametrize("split", SPLITS)
def test_every_conversation_is_valid(split: str) -> None:
    for conversation in sample(11, 500, split=split):
        messages = conversation.messages()
        validate(messages)
        assert all(message.content == message.content.strip() != "" for message in messages)
        assert not any("{" in message.content or "|" in message.content for message in messages)


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("split", SPLITS)
def test_every_topic_answers_in_the_language_of_the_question(topic: str, split: str) -> None:
    rng = random.Random(3)
    for turn in (turn for _ in range(150) for turn in dialogue(topic, split, rng)):
        assert turn.family == topic
        assert turn.answer in turn.accepted
        if topic in ("greetings", "identity", "calendar", "unknown", "memory"):
            expected = text.is_chinese(turn.user) or not any(character.isalpha() for character in turn.user)
            assert text.is_chinese(turn.answer) == expected or turn.user == "886", turn


def test_conversations_come_with_and_without_system_prompt_and_in_many_lengths() -> None:
    conversations = sample(2, 400)
    assert {conversation.system is None for conversation in conversations} == {True, False}
    assert {1, 2, 3, 4, 5} <= {len(conversation.turns) for conversation in conversations}
    assert {turn.family for conversation in conversations for turn in conversation.turns} == set(TOPICS)


@pytest.mark.parametrize("name", INTENT_FILES)
def test_no_way_to_ask_belongs_to_two_intents_with_different_answers(name: str) -> None:
    seen: dict[str, Intent] = {}
    for intent in read_intents(name):
        for ask in intent.asks:
            other = seen.setdefault(ask.lower(), intent)
            assert other.answers == intent.answers, ask


def test_there_is_much_to_talk_about() -> None:
    intents = [intent for name in TALK for intent in read_intents(name)]
    assert len(intents) >= 300
    assert sum(len(intent.asks) >= 6 for intent in intents) >= 285


def test_phrasings_are_split_without_overlap() -> None:
    asks = [f"ask {index}" for index in range(13)]
    train, kept = phrasings(asks, "train"), phrasings(asks, "phrasing")
    assert sorted(train + kept) == sorted(asks)
    assert kept == [ask for index, ask in enumerate(asks) if held_out(index)] == ["ask 4", "ask 10"]
    assert phrasings(asks[:4], "phrasing") == asks[:4]


def test_held_out_phrasings_are_never_trained() -> None:
    intents = [intent for name in INTENT_FILES for intent in read_intents(name)]
    kept = {ask for intent in intents for ask in intent.asks if "(" not in ask}
    kept -= {ask for intent in intents for ask in phrasings(intent.asks, "train")}
    assert len(kept) > 300
    trained = {turn.user for conversation in sample(5, 4000) for turn in conversation.turns}
    assert not kept & trained


def test_entities_are_split_without_overlap() -> None:
    rng = random.Random(1)
    for make in (pools.english_name, pools.chinese_name, pools.english_word, pools.chinese_word):
        train = {make("train", rng) for _ in range(300)}
        kept = {make("entity", rng) for _ in range(60)}
        assert not train & kept
        assert len(kept) > 20


def test_a_name_is_asked_back_as_it_was_told() -> None:
    rng = random.Random(4)
    for _ in range(200):
        turns = dialogue("two_facts", "entity", rng)
        told = {turn.answer for turn in turns[:2]}
        recalled = [turn.answer for turn in turns[2:]]
        assert len(told) == 2
        assert len(set(recalled)) == 2


def test_templates() -> None:
    rng = random.Random(0)
    found = {expand("(a|b(c|)) d", rng) for _ in range(50)}
    assert found == {"a d", "b d", "bc d"}
    typed = {habits("What is {word}?", rng) for _ in range(300)}
    plain = {"What is {word}?", "What is {word}", "what is {word}?", "what is {word}"}
    assert plain < typed
    assert all(one.endswith(("what is {word}", "what is {word}?")) for one in typed - plain)
    assert {habits("{sum}", rng) for _ in range(300)} == {"{sum}"}
    assert {habits("...", rng) for _ in range(50)} == {"..."}
    with pytest.raises(KeyError):
        text.fill("{place}", {})
    with pytest.raises(ValueError, match="not among the accepted"):
        Turn("a", "b", ("c",))


def test_every_sentence_file_can_be_read() -> None:
    for path in FOLDER.glob("*.txt"):
        if path.stem in INTENT_FILES:
            assert read_intents(path.stem)
        else:
            assert all(read_sections(path.stem).values())
