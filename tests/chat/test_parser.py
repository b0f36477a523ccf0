import random

import pytest
from byte_text import SPECIALS, STOP_IDS, ByteDecoder, decode, encode
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm.chat.message import CodeDone, Done, Message, Role, TextDelta, ToolCallDelta, ToolCallDone
from chatglm.chat.parser import StreamParser
from chatglm.chat.template import render

ASSISTANT, USER, OBSERVATION = (SPECIALS[f"<|{name}|>"] for name in ("assistant", "user", "observation"))
CALL = "```python\ntool_call(city='北京')\n```"
OFFERS = [None, True, False, set(), {"get_weather"}, ["get_weather", "查询"]]


def answer(*segments):
    """Ids as the model generates them: (metadata, content) each, `<|assistant|>` between."""
    ids = []
    for metadata, content in segments:
        ids += [ASSISTANT, *encode(metadata + "\n"), *encode(content)]
    return ids[1:]


def parse(ids, tools=None, reason="stop", assistant_id=ASSISTANT):
    parser = StreamParser(ByteDecoder(), assistant_id=assistant_id, stop_ids=STOP_IDS, tools=tools)
    events = [event for token_id in ids for event in parser.feed(token_id)]
    return events + parser.finish(reason), parser


def joined(events):
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_a_plain_answer():
    events, parser = parse([*answer(("", "你好👋！")), USER])
    assert joined(events) == "你好👋！"
    assert events[-1] == Done("stop", USER)
    (segment,) = parser.segments
    assert (segment.kind, segment.metadata, segment.content) == ("text", "", "你好👋！")


@pytest.mark.parametrize("tools", OFFERS)
def test_text_then_a_call(tools):
    events, parser = parse([*answer(("", "我来查询。\n"), ("get_weather", CALL)), OBSERVATION], tools)
    if tools in (False, set()):
        assert [segment.kind for segment in parser.segments] == ["text", "text"]
        assert parser.segments[1].content == f"get_weather\n {CALL}"
        return
    kinds = [type(event) for event in events]
    assert kinds.index(ToolCallDelta) > kinds.index(TextDelta)
    (call,) = [event.call for event in events if isinstance(event, ToolCallDone)]
    assert (call.name, call.arguments, call.error) == ("get_weather", {"city": "北京"}, None)
    assert "".join(event.text for event in events if isinstance(event, ToolCallDelta)) == call.raw == CALL
    assert [segment.kind for segment in parser.segments] == ["text", "tool_call"]
    assert joined(events) == "我来查询。"


@pytest.mark.parametrize("tools", OFFERS)
def test_code(tools):
    events, parser = parse([*answer(("interpreter", "```python\nprint(1)\n```")), OBSERVATION], tools)
    assert CodeDone("print(1)", "```python\nprint(1)\n```", 1) in events
    assert [segment.kind for segment in parser.segments] == ["code"]
    assert {event.name for event in events if isinstance(event, ToolCallDelta)} == {"interpreter"}


@pytest.mark.parametrize(
    ("text", "tools", "kind"),
    [
        ("第一行\n第二行", None, "tool_call"),  # the official rule: it cannot know better
        ("第一行\n第二行", True, "tool_call"),
        ("第一行\n第二行", False, "text"),
        ("第一行\n第二行", {"get_weather"}, "text"),
        ("说明：\n```python\ntool_call(a=1)\n```", {"get_weather"}, "text"),
        ("no_such_tool\n" + CALL, {"get_weather"}, "tool_call"),
        ("no_such_tool\n" + CALL, False, "text"),
        ("get_weather\n北京", {"get_weather"}, "tool_call"),
        ("get_weather", {"get_weather"}, "text"),
        ("get_weather 好用\nx", {"get_weather"}, "text"),
        ("interpreter\nprint(1)", False, "code"),
        ("一行", None, "text"),
        ("\n多行\n\n回答\n", None, "text"),
        ("", None, "text"),
        ("```python\nprint(1)\n```", {"get_weather"}, "text"),
    ],
)
def test_what_a_first_line_means(text, tools, kind):
    events, parser = parse(encode(text), tools)
    (segment,) = parser.segments
    assert segment.kind == kind
    if kind == "text":
        assert segment.content == text.strip() == joined(events)


def test_a_tool_that_cannot_be_called_is_data():
    events, parser = parse(answer(("get_weather", "```python\ntool_call(__import__('os').getpid())\n```")))
    (done,) = [event for event in events if isinstance(event, ToolCallDone)]
    assert done.call.arguments is None
    assert "positional" in done.call.error
    assert parser.segments[0].call == done.call


def test_a_spelled_marker_is_text():
    _, parser = parse(answer(("", "x<|assistant|>get_weather\n" + CALL)))
    assert [segment.kind for segment in parser.segments] == ["text"]


def test_text_appears_as_soon_as_it_is_certain():
    parser = StreamParser(ByteDecoder(), assistant_id=ASSISTANT, stop_ids=STOP_IDS, tools=False)
    seen = [joined(parser.feed(token_id)) for token_id in encode("ok go\n\nnow")]
    assert seen == ["", "o", "k", "", " g", "o", "", "", "\n\nn", "o", "w"]


def test_the_training_date_is_filled_in_across_tokens():
    events, parser = parse(answer(("", "截至[[训练时间]]，[[[训练时间]][[训练")))
    assert joined(events) == "截至2023年，[2023年[[训练" == parser.segments[0].display
    assert parser.segments[0].content == "截至[[训练时间]]，[[[训练时间]][[训练"
    assert max(len(event.text) for event in events if isinstance(event, TextDelta)) < 12


def test_nothing_after_the_end_belongs_to_the_turn():
    parser = StreamParser(ByteDecoder(), assistant_id=ASSISTANT, stop_ids=STOP_IDS)
    for token_id in [*encode("\nx"), USER]:
        parser.feed(token_id)
    assert parser.feed(ord("y")) == parser.feed(ASSISTANT) == []
    assert parser.finish("stop") == [Done("stop", USER)]
    assert parser.finish("stop") == []
    assert [segment.content for segment in parser.segments] == ["x"]


def test_without_roles_all_is_text():
    events, parser = parse([*encode("get_weather\nx"), SPECIALS["<eos>"]], assistant_id=None)
    assert joined(events) == "get_weather\nx"
    assert parser.segments[0].kind == "text"


IDS = st.lists(
    st.one_of(
        st.sampled_from([ASSISTANT, 10, 32, -1, 2**40, *SPECIALS.values()]),
        st.integers(0, 255),
        st.sampled_from(list("get_weather\n interpreter ```python tool_call(a=1) [[训练时间]]".encode())),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(IDS, st.sampled_from(OFFERS))
def test_no_id_stream_raises_or_loses_text(ids, tools):
    events, parser = parse(ids, tools, "length")
    end = next((place for place, token_id in enumerate(ids) if token_id in STOP_IDS), len(ids))
    runs = [[]]
    for token_id in ids[:end]:
        if token_id == ASSISTANT:
            runs.append([])
        else:
            runs[-1].append(token_id)
    assert [list(segment.ids) for segment in parser.segments] == runs
    assert [segment.raw for segment in parser.segments] == [decode(run) for run in runs]
    assert [event for event in events if isinstance(event, Done)] == events[-1:]
    assert joined(events) == "".join(segment.display for segment in parser.segments if segment.kind == "text")
    for segment in parser.segments:
        if segment.kind == "text":
            text = segment.raw.strip()  # all of it, but for a blank first line, which strip takes too
            assert segment.content == text
        else:
            line, newline, rest = segment.raw.partition("\n")
            assert (segment.metadata, newline) == (line.strip(), "\n")
            assert segment.content == rest.removeprefix(" ")


@given(IDS, st.sampled_from(OFFERS))
def test_what_was_parsed_renders_to_the_same_ids(ids, tools):
    ids = [token_id for token_id in ids if token_id not in STOP_IDS]
    _, parser = parse(ids, tools)
    rendered = render([s.message() for s in parser.segments], encode, SPECIALS, add_generation_prompt=False)
    assert rendered.ids[2:] == [ASSISTANT, *ids]


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x1c\x1d\x1e\x1f\x85"), max_size=20).map(str.strip)


@given(st.lists(st.tuples(st.sampled_from(["", "interpreter", "get_weather"]), TEXT), min_size=1, max_size=4))
def test_rendered_messages_are_parsed_back(segments):
    messages = [Message(Role.ASSISTANT, content, metadata) for metadata, content in segments]
    ids = render(messages, encode, SPECIALS, add_generation_prompt=False).ids
    for tools in (None, {"get_weather"}):
        _, parser = parse(ids[3:], tools)
        assert [(s.metadata, s.content) for s in parser.segments] == segments


def test_a_long_answer_takes_linear_time():
    ids = encode("\n" + "".join(random.Random(0).choices("你好 ab\n", k=20000)))
    events, parser = parse(ids)
    assert joined(events) == parser.segments[0].content
