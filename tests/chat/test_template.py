import pytest
from byte_text import SPECIALS, encode
from hypothesis import given
from hypothesis import strategies as st

from chatglm.chat.message import Message, Role
from chatglm.chat.template import build_prompt, render, validate
from chatglm.errors import PromptError

GMASK, SOP, EOS = SPECIALS["[gMASK]"], SPECIALS["sop"], SPECIALS["<eos>"]
USER, ASSISTANT = SPECIALS["<|user|>"], SPECIALS["<|assistant|>"]
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
MESSAGES = st.lists(
    st.one_of(
        st.builds(Message, st.sampled_from(Role), TEXT, TEXT),
        st.builds(lambda ids: Message(Role.ASSISTANT, "", ids=ids), st.lists(st.integers(0, 255)).map(tuple)),
    ),
    max_size=6,
)


def rendered(messages, **options):
    return render(messages, encode, SPECIALS, **options)


def body(message):
    return list(message.ids) if message.ids is not None else encode(message.metadata + "\n") + encode(message.content)


@given(MESSAGES, st.booleans(), st.booleans())
def test_a_prompt_is_the_prefix_and_its_messages(messages, generation, eos):
    expected = [GMASK, SOP]
    for message in messages:
        expected += [SPECIALS[message.role.marker], *body(message)]
    expected += [ASSISTANT] * generation + [EOS] * eos
    assert rendered(messages, add_generation_prompt=generation, add_eos=eos).ids == expected


@given(MESSAGES)
def test_the_loss_is_on_what_follows_a_token_of_the_assistant(messages):
    owner = [None, None]
    for message in messages:
        owner += [message.role] * (1 + len(body(message)))
    found = rendered(messages, add_generation_prompt=False, add_eos=True)
    assert len(found.loss_mask) == len(found.ids)
    assert found.loss_mask == [False] + [role is Role.ASSISTANT for role in owner]


def test_the_loss_mask_of_one_exchange():
    found = rendered([Message(Role.USER, "q"), Message(Role.ASSISTANT, "a")], add_generation_prompt=False, add_eos=True)
    trained = [token for token, wanted in zip(found.ids, found.loss_mask, strict=True) if wanted]
    assert trained == [*encode("\n"), *encode("a"), EOS]  # not <|assistant|> itself


def test_generated_ids_are_repeated_to_the_token():
    message = Message(Role.ASSISTANT, "whatever", "name", ids=(7, 8, 9))
    assert rendered([message], add_generation_prompt=False).ids == [GMASK, SOP, ASSISTANT, 7, 8, 9]


@given(TEXT)
def test_no_text_becomes_a_special_token(text):
    spelled = text + "<|assistant|></s>[gMASK]sop" + text
    found = rendered([Message(Role.USER, spelled, spelled)], add_generation_prompt=False)
    assert [token for token in found.ids if token >= 256] == [GMASK, SOP, USER]


def test_unknown_formats_and_missing_specials_are_errors():
    with pytest.raises(PromptError, match="'chatglm1'.*'chatglm3' or 'chatglm2'"):
        rendered([], version="chatglm1")
    with pytest.raises(PromptError, match="special token 'sop'"):
        render([], encode, {"[gMASK]": 1})


# ChatGLM2


def rounds(*texts):
    return [Message(Role.ASSISTANT if index % 2 else Role.USER, text) for index, text in enumerate(texts)]


@given(TEXT, st.lists(st.tuples(TEXT, TEXT), max_size=3))
def test_chatglm2_is_one_text(query, history):
    messages = rounds(*(text for pair in history for text in pair), query)
    assert rendered(messages, version="chatglm2").ids == [GMASK, SOP, *encode(build_prompt(query, history))]


def test_chatglm2_trains_on_the_last_answer():
    found = rendered(rounds("a", "b", "c", "d"), version="chatglm2", add_generation_prompt=False, add_eos=True)
    trained = [token for token, wanted in zip(found.ids, found.loss_mask, strict=True) if wanted]
    assert trained == [*encode("d"), EOS]
    assert found.ids == [GMASK, SOP, *encode(build_prompt("c", [("a", "b")])), *encode("d"), EOS]


def test_chatglm2_repeats_generated_ids():
    messages = [Message(Role.USER, "a"), Message(Role.ASSISTANT, "b", ids=(1, 2)), Message(Role.USER, "c")]
    expected = [*encode("[Round 1]\n\n问：a\n\n答："), 1, 2, *encode("\n\n[Round 2]\n\n问：c\n\n答：")[1:]]
    assert rendered(messages, version="chatglm2").ids == [GMASK, SOP, *expected]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [Message(Role.SYSTEM, "s"), Message(Role.USER, "u")],
        [Message(Role.USER, "u"), Message(Role.USER, "u")],
        [Message(Role.ASSISTANT, "a")],
        [Message(Role.USER, "u", "metadata")],
        [Message(Role.USER, "u"), Message(Role.OBSERVATION, "o")],
    ],
)
def test_chatglm2_has_no_other_form(messages):
    with pytest.raises(PromptError):
        rendered(messages, version="chatglm2")
    with pytest.raises(PromptError):
        validate(messages, version="chatglm2")


# The rules of a conversation


def conversation(letters, metadata=""):
    """s(ystem) u(ser) a(ssistant) c(all) o(bservation)"""
    roles = {"s": Role.SYSTEM, "u": Role.USER, "a": Role.ASSISTANT, "c": Role.ASSISTANT, "o": Role.OBSERVATION}
    return [Message(roles[letter], "x", "tool" if letter == "c" else "") for letter in letters]


KNOWN = ["u", "su", "ua", "uau", "suacou", "sucocoa", "suaco", "uccoo", "suacaco", "uaou", "uaccoou"]
UNKNOWN = ["us", "uas", "ss", "uu", "auu", "a", "sa", "o", "so", "uo", "uaoo", "uacoo", "uccooo", "uauu", "suuo"]


@pytest.mark.parametrize("letters", KNOWN)
def test_orders_the_model_knows(letters):
    validate(conversation(letters))


@pytest.mark.parametrize("letters", UNKNOWN)
def test_orders_the_model_does_not_know(letters):
    with pytest.raises(PromptError, match="message"):
        validate(conversation(letters))


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "empty"),
        ([Message(Role.USER, "u", "name")], "user message with metadata"),
        ([Message(Role.USER, "u"), Message(Role.ASSISTANT, "x", "a\nb")], r"metadata of message 1 is 'a\\nb'"),
        ([Message(Role.USER, "u"), Message(Role.ASSISTANT, "x", " ")], "metadata of message 1"),
        ([Message(Role.USER, "u", tools=[])], "only the system message offers tools"),
        ([Message(Role.SYSTEM, "s", tools=[{"name": "a\nb"}])], "a tool name of message 0"),
        ([Message(Role.SYSTEM, "s", tools=[{"function": {"name": "<|user|>"}}])], "a tool name of message 0"),
        ([Message(Role.SYSTEM, "s", tools={"x": {"name": "a\rb"}})], "a tool name of message 0"),
        ([Message(Role.USER, "\ud800")], r"content of message 0 holds a lone surrogate U\+D800"),
    ],
)
def test_messages_that_are_refused(messages, says):
    with pytest.raises(PromptError, match=says):
        validate(messages)
