"""One visitor and many: what is said, kept, taken back and ended. No browser, no UI library."""

import asyncio
import json
import threading
from types import SimpleNamespace

import pytest
from agent.fake_sandbox import FakeSandbox
from agent.scripted_engine import say
from web.scripted_page import PacedEngine, answers

from chatglm.chat.saved import load_file
from chatglm.errors import ChatGLMError, ConversationError, SessionError, ToolError, UsageError
from chatglm.web.by_hand import ByHand
from chatglm.web.conversations import Conversations
from chatglm.web.gradio_events import _coming, _seen
from chatglm.web.settings import Settings
from chatglm.web.throttle import Throttle
from chatglm.web.view import Step, Text
from chatglm.web.visitor import Visitor
from chatglm.web.visitors import MOST_PAGES, Visitors, visitors_of

SECONDS = 60  # that long only where something is wrong
WEATHER = (
    "- name: get_weather\n  description: The weather.\n  parameters: {type: object, properties: {city: {type: string}}}"
)


class Pool:
    """Gives fake sandboxes, and remembers them."""

    def __init__(self, *script):
        self.script, self.given = script, []

    def take(self):
        self.given.append(FakeSandbox(*self.script))
        return self.given[-1]

    def close(self):
        pass


@pytest.fixture
def pool():
    return Pool("drawn")


@pytest.fixture
def visitor(tmp_path, pool):
    made = Visitor(answers(pool), Conversations(tmp_path, "somebody"))
    yield made
    made.close()


def ended(turn):
    assert turn.wait(SECONDS)
    return turn


def wait_for(what):
    """Turns are threads: looks until it is so."""
    arrived = threading.Event()
    for _ in range(100 * SECONDS):
        if what():
            return
        arrived.wait(0.01)
    raise AssertionError("it did not come")


def texts(visitor):
    return [
        (told.text, "".join(part.text for part in told.view.parts if isinstance(part, Text))) for told in visitor.told
    ]


def test_a_conversation_is_kept_and_opened_again(visitor, tmp_path):
    ended(visitor.send("hello"))
    ended(visitor.send("there"))
    said = texts(visitor)
    assert said == [("hello", "You said: hello"), ("there", "You said: there")]
    [card] = visitor.conversations()
    assert (card.title, card.mode) == ("hello", "chat")
    saved = load_file(visitor.kept.path(card.id))  # what `chatglm chat --load` reads
    assert [message.content for message in saved.messages][::2] == ["hello", "there"]
    visitor.new()
    assert visitor.told == []
    visitor.open(card.id)
    assert texts(visitor) == said
    ended(visitor.send("again"))
    assert len(load_file(visitor.kept.path(card.id)).messages) == 6
    other = Visitor(visitor.answers, Conversations(tmp_path, "somebody"))
    other.resume()
    assert texts(other)[:2] == said
    stranger = Visitor(visitor.answers, Conversations(tmp_path, "somebody else"))
    assert stranger.conversations() == []
    with pytest.raises(ConversationError, match="there is no conversation"):
        stranger.open(card.id)


def test_a_damaged_conversation_is_no_reason_to_keep_its_visitor_out(visitor, tmp_path, caplog):
    ended(visitor.send("hello"))
    visitor.kept.path(visitor.conversation).write_text("{")
    again = Visitor(visitor.answers, Conversations(tmp_path, "somebody"))
    again.resume()
    assert (again.told, len(again.conversations())) == ([], 1)
    assert "could not be opened again" in caplog.text
    with pytest.raises(ConversationError, match="is not JSON"):
        again.open(visitor.conversation)
    ended(again.send("hello"))


@pytest.mark.parametrize("damage", ["{", "[]", '{"x": {}}', '{"%s": {"title": 5}}', "\udcff"])
def test_a_damaged_list_is_put_aside_and_made_anew(tmp_path, pool, caplog, damage):
    visitor = Visitor(answers(pool), Conversations(tmp_path, "somebody"))
    for mode, text in (("chat", "hello"), ("tool", "tool"), ("code", "plot")):
        visitor.new(mode)
        ended(visitor.send(text))
    cards = {card.id: (card.title, card.mode) for card in visitor.conversations()}
    assert sorted(mode for _, mode in cards.values()) == ["chat", "code", "tool"]
    lost = visitor.kept.path(visitor.conversation)
    lost.write_text("{")  # a conversation is damaged as well
    lost.with_suffix(".told.json").unlink()
    cards[visitor.conversation] = (visitor.conversation, "chat")
    index, content = visitor.kept.folder / "index.json", damage.replace("%s", visitor.conversation)
    index.write_bytes(content.encode("utf-8", "surrogateescape"))
    again = Visitor(visitor.answers, Conversations(tmp_path, "somebody"))
    again.resume()
    assert {card.id: (card.title, card.mode) for card in again.conversations()} == cards
    aside = again.kept.mended()
    assert (index.with_name(aside)).read_bytes() == content.encode("utf-8", "surrogateescape")
    assert again.kept.mended() == ""  # told once
    assert "was damaged" in caplog.text
    ended(again.send("hello"))
    assert len(again.conversations()) == 3 + (again.conversation not in cards)
    again.open(next(name for name, (title, _) in cards.items() if title == "tool"))
    visitor.close()


def test_who_says_nothing_leaves_nothing_on_disk(tmp_path):
    made = visitors_of(answers(), tmp_path / "all")
    for number in range(10):
        visitor = made.get(f"stranger {number}")
        assert visitor.conversations() == []
        visitor.clear()
    assert list((tmp_path / "all").iterdir()) == []
    made.close()


def test_nothing_begins_in_a_visit_that_ends(visitor, monkeypatch):
    turn = visitor.send("long")
    tried = []

    def wait(seconds, of=turn.wait):
        over = of(seconds)
        with pytest.raises(SessionError, match="has ended"):
            visitor.send("once more")
        tried.append(over)
        return over

    monkeypatch.setattr(turn, "wait", wait)
    visitor.close()
    assert tried == [True]
    assert [told.text for told in visitor.told] in (["long"], [])  # it may have been ended before its first word


@pytest.mark.parametrize("name", ["../index", "index", "", "0" * 16, "a/b", "x" * 16])
def test_names_of_conversations_lead_nowhere_else(visitor, name):
    for call in (visitor.kept.load, visitor.kept.path):
        with pytest.raises(ConversationError):
            call(name)
    visitor.kept.delete(name)


def test_undo_retry_edit_and_clear(visitor):
    for text in ("one", "two", "three"):
        ended(visitor.send(text))
    assert visitor.undo() == "three"
    ended(visitor.retry())
    assert texts(visitor) == [("one", "You said: one"), ("two", "You said: two")]
    ended(visitor.edit(0, "uno"))
    assert texts(visitor) == [("uno", "You said: uno")]
    name = visitor.conversation
    visitor.clear()
    assert visitor.told == []
    with pytest.raises(ConversationError):
        visitor.kept.path(name)
    ended(visitor.send("new"))
    assert texts(visitor) == [("new", "You said: new")]
    visitor.delete(visitor.conversation)
    assert visitor.told == visitor.conversations() == []


def test_undo_goes_on_after_a_reload(visitor):
    for text in ("one", "two"):
        ended(visitor.send(text))
    name = visitor.conversation
    visitor.new()
    visitor.open(name)
    assert visitor.undo() == "two"
    ended(visitor.edit(0, "uno"))
    assert texts(visitor) == [("uno", "You said: uno")]


def test_stop_keeps_what_was_said_and_meanwhile_nothing_else_is_done(visitor):
    turn = visitor.send("long")
    wait_for(lambda: turn.parts() and len(turn.parts()[0].text) > 20)
    assert visitor.is_busy
    for forbidden in (visitor.undo, visitor.clear, visitor.new, visitor.retry, lambda: visitor.send("x")):
        with pytest.raises(SessionError, match="being written"):
            forbidden()
    visitor.stop()
    assert ended(turn).done.reason == "abort"
    assert texts(visitor)[0][1].startswith("The quick")


def test_a_failing_engine_gives_the_message_back(tmp_path):
    class Failing(PacedEngine):
        def submit(self, prompt_ids, params=None):
            self.script = [RuntimeError("out of order"), say("well")]
            return super(PacedEngine, self).submit(prompt_ids, params)

    visitor = Visitor(answers(engine=Failing()), Conversations(tmp_path, "a"))
    turn = ended(visitor.send("hello"))
    assert "out of order" in str(turn.error)
    assert (visitor.told, visitor.given_back) == ([], "hello")
    assert visitor.conversations() == []


def test_consent_is_asked_for_and_only_yes_is_one(visitor):
    visitor.new("tool")
    for allowed, status in ((True, "ok"), (False, "refused")):
        turn = visitor.send("danger")
        wait_for(lambda turn=turn: turn.asking)
        assert turn.asking.asks == "consent"
        visitor.consent(allowed)
        [step, _] = ended(turn) and visitor.told[-1].view.parts
        assert step.result.status == status
        with pytest.raises(SessionError, match="nothing waits"):
            visitor.consent(True)


def test_tools_by_hand(visitor):
    visitor.new("tool")
    visitor.set_tools(WEATHER)
    turn = visitor.send("by hand")
    wait_for(lambda: turn.asking)
    assert (turn.asking.asks, turn.asking.call.arguments) == ("answer", {"city": "北京"})
    visitor.answer("sunny")
    assert ended(turn)
    [step, text] = visitor.told[-1].view.parts
    assert isinstance(step, Step)
    assert step.result.text == "sunny"
    assert text == Text("Done, 1 results.")
    turn = visitor.send("by hand")  # stopped while it waits: the next turn works
    wait_for(lambda: turn.asking)
    visitor.stop()
    assert ended(turn).done.reason == "abort"
    visitor.set_tools("")
    ended(visitor.send("hello"))
    assert len(visitor.told) == 3


def test_a_question_is_shown_once_and_at_once(visitor, monkeypatch):
    """However soon a turn asks: what begins to draw it then does not take it for one that has been shown."""
    monkeypatch.setattr("chatglm.web.gradio_events.BEGIN_SECONDS", 0.1)
    visitor.new("tool")
    turn = visitor.send("danger")
    wait_for(lambda: turn.asking)
    assert asyncio.run(_coming(visitor)) is turn
    _seen(visitor)
    assert asyncio.run(_coming(visitor)) is None
    visitor.consent(True)
    assert asyncio.run(_coming(visitor)) is turn
    ended(turn)


def test_a_call_that_outlives_its_turn_takes_no_answer_away(visitor, monkeypatch):
    visitor.new("tool")
    visitor.set_tools(WEATHER)
    monkeypatch.setattr("chatglm.web.answering.MOST_SECONDS", 0.2)
    turn = ended(visitor.send("by hand"))
    assert turn.done.reason == "seconds"
    monkeypatch.undo()
    visitor.new()
    turn = visitor.send("by hand")
    wait_for(lambda: turn.asking)
    visitor.answer("sunny")
    assert ended(turn).done.reason == "stop"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("name: [", "no YAML"),
        ("a: &x [1]\nb: *x", "alias"),
        ("just words", "must be a dict"),
        ("- {name: a b, description: x}", "name"),
        ("- {name: a, description: x}\n- {name: a, description: y}", "two tools"),
        ("!!python/object/apply:os.system ['true']", "no YAML"),
        ("x" * 30_000, "at most"),
        ("[" * 5000, "in more than"),
        ("- " * 5000 + "a", "in more than"),
    ],
)
def test_the_editor_reads_schemas_and_nothing_else(text, wrong):
    by_hand = ByHand()
    with pytest.raises(ToolError, match=wrong):
        by_hand.read(text)
    assert by_hand.tools == []


def test_every_form_of_a_schema_is_read():
    by_hand = ByHand()
    openai = {"type": "function", "function": {"name": "a", "description": "b", "parameters": {"type": "object"}}}
    composite = {"name": "c", "description": "d", "params": [{"name": "x", "type": "int", "required": True}]}
    by_hand.read(json.dumps([openai, composite]))
    assert by_hand.names == ["a", "c"]


def test_code_has_an_interpreter_of_its_own_for_each_conversation(visitor, pool):
    with pytest.raises(UsageError, match="code interpreter"):
        visitor.send("look", [("a.csv", b"1,2")])
    visitor.new("code")
    assert pool.given == []  # none is taken before it is needed
    ended(visitor.send("loop", [("数据.csv", b"1,2")]))
    [sandbox] = pool.given
    assert sandbox.files == {"数据.csv": b"1,2"}
    assert visitor.file("数据.csv") == b"1,2"
    assert sandbox.ran == ["while True: pass"]
    visitor.new()
    assert sandbox.closed
    with pytest.raises(SessionError, match="gone"):
        visitor.file("数据.csv")


def test_stop_inside_a_cell(tmp_path):
    pool = Pool("hang")
    visitor = Visitor(answers(pool), Conversations(tmp_path, "a"))
    visitor.new("code")
    turn = visitor.send("loop")
    wait_for(lambda: pool.given[0].ran)
    visitor.stop()
    assert ended(turn).done.reason == "abort"
    visitor.close()
    assert pool.given[0].closed


@pytest.mark.parametrize(
    "wrong",
    [
        lambda visitor: visitor.send("  "),
        lambda visitor: visitor.send("x" * 1_000_001),
        lambda visitor: visitor.send("\ud800"),
        lambda visitor: visitor.new("root"),
        lambda visitor: visitor.edit(0, "x"),
        lambda visitor: visitor.undo(),
        lambda visitor: visitor.retry(),
        lambda visitor: visitor.answer("x"),
        lambda visitor: visitor.picture(0, 0),
    ],
)
def test_what_cannot_be_leaves_everything_as_it_was(visitor, wrong):
    with pytest.raises(ChatGLMError):
        wrong(visitor)
    assert visitor.told == visitor.conversations() == []
    ended(visitor.send("hello"))


@pytest.mark.parametrize("name", ["a/b", "..", "x\ny", "<|user|>", ""])
def test_names_of_uploads_are_checked(visitor, name):
    visitor.new("code")
    with pytest.raises(SessionError):
        visitor.send("look", [(name, b"")])
    assert visitor.told == []


@pytest.mark.parametrize(
    "values",
    [{"temperature": 2}, {"top_p": 0}, {"top_p": float("nan")}, {"repetition_penalty": "1"}, {"max_new_tokens": True}],
)
def test_a_setting_outside_its_slider_is_refused(values):
    with pytest.raises(UsageError, match=next(iter(values))):
        Settings(**values)


def test_settings_reach_the_engine(visitor):
    ended(visitor.send("count x", settings=Settings(0.5, 0.9, 1.2, 7)))
    params = visitor.answers.engine.params[-1]
    assert (params.temperature, params.top_p, params.repetition_penalty, params.max_tokens) == (0.5, 0.9, 1.2, 7)
    assert visitor.told[0].done.reason == "length"
    ended(visitor.send("x", settings=Settings(temperature=0)))
    assert visitor.answers.engine.params[-1].greedy


def test_the_system_prompt_is_said_to_the_model(visitor):
    visitor.set_system("Be brief.")
    ended(visitor.send("hello"))
    assert bytes(i for i in visitor.answers.engine.prompts[-1] if i < 256).startswith(b" \n Be brief.")
    name = visitor.conversation
    visitor.set_system(None)
    visitor.new()
    ended(visitor.send("hello"))
    assert b"brief" not in bytes(i for i in visitor.answers.engine.prompts[-1] if i < 256)
    visitor.open(name)
    assert visitor.system == "Be brief."
    ended(visitor.send("hello"))
    assert b"Be brief." in bytes(i for i in visitor.answers.engine.prompts[-1] if i < 256)
    visitor.set_system(None)
    ended(visitor.send("hello"))
    assert b"brief" not in bytes(i for i in visitor.answers.engine.prompts[-1] if i < 256)


def test_a_file_of_another_chat_is_opened(visitor, tmp_path):
    ended(visitor.send("hello"))
    path = tmp_path / "conversation.json"
    path.write_bytes(visitor.kept.path(visitor.conversation).read_bytes())
    visitor.load(path)
    assert texts(visitor) == [("hello", "You said: hello")]
    assert len(visitor.conversations()) == 2
    path.write_text("{}")
    with pytest.raises(ConversationError):
        visitor.load(path)
    assert texts(visitor) == [("hello", "You said: hello")]


def test_news_come_at_once_and_end_with_the_turn(visitor):
    async def follow():
        turn, drawn = visitor.send("long"), 0
        async for _ in turn.news(Throttle()):
            drawn += 1
            if drawn == 3:
                visitor.stop()
        return turn.is_over, drawn

    over, drawn = asyncio.run(follow())
    assert over
    assert drawn >= 4


# everybody


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def fake_visitor():
    made = SimpleNamespace(closed=False, is_busy=False, told=[])
    made.close = lambda: setattr(made, "closed", True)
    return made


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def visitors(clock):
    return Visitors(lambda key: fake_visitor(), parked=60, idle=1000, most=100, clock=clock)


def test_a_reload_finds_what_was_there_and_a_leaver_is_ended(visitors, clock):
    first = visitors.get("ann", "page 1")
    visitors.left("page 1")
    clock.now = 30
    visitors.sweep()
    assert visitors.get("ann", "page 2") is first
    clock.now = 500
    visitors.sweep()
    assert not first.closed
    visitors.left("page 2")
    clock.now = 561
    visitors.sweep()
    assert first.closed
    assert visitors.get("ann", "page 3") is not first


def test_two_pages_of_one_browser_are_one_visitor(visitors, clock):
    assert visitors.get("ann", "a") is visitors.get("ann", "b")
    visitors.left("a")
    clock.now = 100
    visitors.sweep()
    assert len(visitors) == 1


def test_a_hundred_visits_leave_none_behind(visitors, clock):
    for number in range(300):
        visitors.get(f"key {number}", f"page {number}")
        visitors.left(f"page {number}")
        clock.now += 1
        visitors.sweep()
    clock.now += 61
    visitors.sweep()
    assert len(visitors) == 0
    assert visitors._owners == {}


def test_the_idle_are_ended_but_not_while_they_are_answered(visitors, clock):
    idle, busy = visitors.get("ann", "a"), visitors.get("bob", "b")
    busy.is_busy = True
    clock.now = 1001
    assert visitors.busy() == 1
    visitors.sweep()
    assert (idle.closed, busy.closed) == (True, False)
    visitors.close()
    assert busy.closed


def test_a_page_is_its_owners_alone(visitors):
    visitors.get("ann", "a")
    with pytest.raises(SessionError, match="another visitor"):
        visitors.get("bob", "a")
    assert visitors.owner("a") == "ann"


def test_there_is_a_most_of_visitors_but_strangers_keep_nobody_out(visitors, clock):
    ann = visitors.get("ann", "page of ann")
    ann.told.append("hello")
    strangers = []
    for number in range(1000):
        clock.now += 0.01
        strangers.append(visitors.get(f"key {number}", f"page {number}"))
        assert len(visitors) <= 100
    assert visitors.get("ann", "page of ann") is ann
    assert [stranger.closed for stranger in strangers] == [True] * 901 + [False] * 99
    assert len(visitors._owners) == 100
    for stranger in strangers:
        stranger.told.append("hello")
    for _ in range(3):
        with pytest.raises(SessionError, match="come back later"):
            visitors.get("one more", "page")
    assert visitors.owner("page") is None


def test_a_browser_without_end_of_pages_is_remembered_by_its_last(visitors):
    for number in range(1000):
        visitors.get("ann", f"page {number}")
    assert len(visitors._owners) == MOST_PAGES
    assert visitors.owner("page 999") == "ann"


def test_who_only_fetches_a_file_is_ended_too(visitors, clock):
    visitors.get("ann")
    clock.now = 61
    visitors.sweep()
    assert len(visitors) == 0
