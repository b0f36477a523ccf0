"""A saved conversation is given back as it was."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm.chat.message import Message, Role
from chatglm.chat.saved import FORMAT, VERSION, load_file, save_file
from chatglm.errors import ConversationError

TEXT = st.text(st.characters(codec="utf-8"))
IDS = st.none() | st.lists(st.integers(0, 65023)).map(tuple)
TURNS = st.lists(st.tuples(TEXT, TEXT, IDS), max_size=4)


def conversation(system: str, turns) -> list[Message]:
    said = [Message(Role.SYSTEM, system)] if system else []
    for question, answer, ids in turns:
        said += [Message(Role.USER, question), Message(Role.ASSISTANT, answer, ids=ids)]
    return said


@given(system=TEXT, turns=TURNS)
def test_save_and_load_give_the_same_conversation(tmp_path_factory, system, turns):
    path = tmp_path_factory.mktemp("saved") / "对话.json"
    talk = conversation(system, turns)
    save_file(path, talk, "v1")
    opened, same = load_file(path).open("v1")
    assert list(opened) == talk
    assert same
    assert json.loads(path.read_text(encoding="utf-8"))["version"] == VERSION
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@given(system=TEXT, turns=TURNS)
def test_ids_of_another_vocabulary_are_dropped_and_the_text_is_kept(tmp_path_factory, system, turns):
    path = tmp_path_factory.mktemp("saved") / "talk.json"
    talk = conversation(system, turns)
    save_file(path, talk, "v1")
    opened, same = load_file(path).open("v2")
    assert [message.content for message in opened] == [message.content for message in talk]
    assert all(message.ids is None for message in opened)
    assert same is all(ids is None for _, _, ids in turns)


def document(**changes):
    return json.dumps({"format": FORMAT, "version": VERSION, "vocabulary": "v", "messages": [], **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a saved conversation"),
        ('{"format": "x"}', "is not a saved conversation"),
        (document(version=2), "format version 2; this program reads version 1"),
        (document(messages={}), "'messages': it must be a list"),
        (document(vocabulary=None), "'vocabulary': it must be a str"),
        (document(messages=[{"role": "admin", "content": "x"}]), "unknown role 'admin'"),
        (document(messages=[{"role": "user"}]), "no key 'content'"),
        (document(messages=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]), "both user messages"),
        (
            document(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "ids": [-1]}]),
            "a token id is -1",
        ),
        (
            document(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "ids": 7}]),
            "no valid conversation",
        ),
        (
            document(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "ids": ["x"]}]),
            "a token id is 'x'",
        ),
    ],
)
def test_a_file_that_is_no_conversation_is_named_with_the_reason(tmp_path, text, message):
    path = tmp_path / "talk.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConversationError, match=str(path)) as caught:
        load_file(path)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConversationError, match="none.json cannot be read: No such file"):
        load_file(tmp_path / "none.json")


def test_a_foreign_file_is_not_overwritten(tmp_path):
    path = tmp_path / "notes.json"
    path.write_text('{"my": "notes"}')
    with pytest.raises(ConversationError, match="was not overwritten"):
        save_file(path, conversation("", [("a", "b", None)]), "v")
    assert path.read_text() == '{"my": "notes"}'


def test_a_saved_conversation_is_overwritten(tmp_path):
    path = tmp_path / "talk.json"
    save_file(path, conversation("", [("a", "b", None)]), "v")
    longer = conversation("", [("a", "b", None), ("c", "d", (1, 2))])
    save_file(path, longer, "v")
    assert list(load_file(path).messages) == longer


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(ConversationError, match="talk.json cannot be written"):
        save_file(tmp_path / "none" / "talk.json", [], "v")
