"""The interactive program with a scripted model: what each line does, and that nothing said is ever lost."""

import io
import json
import re
import signal

import pytest
from scripted import Tokens, chat, said

from chatglm.chat.saved import SavedConversation, vocabulary_of
from chatglm.errors import ChatGLMError
from chatglm.terminal.app import Chat
from chatglm.tools import ToolBox
from chatglm.words import Words

WORDS = Words("en")


class Keyboard:
    """Gives the program its lines; an exception class in the list stands for Ctrl-C or Ctrl-D."""

    def __init__(self, *lines):
        self.lines = list(lines)
        self.drafts = []

    def read(self, draft=""):
        self.drafts.append(draft)
        line = self.lines.pop(0) if self.lines else EOFError
        if isinstance(line, type):
            raise line
        return line


def run(program, *lines):
    keyboard = Keyboard(*lines)
    program.run(keyboard)
    return program.screen.stream.getvalue(), keyboard.drafts


def test_a_chinese_and_an_english_turn():
    written = list("\n 你好👋！".encode())
    program = chat("你好👋！", "Fine.")
    output, _ = run(program, "你好", "How are you?")
    assert output == "你好👋！\nFine.\n"
    assert said(program) == [
        ("user", "你好"),
        ("assistant", "你好👋！"),
        ("user", "How are you?"),
        ("assistant", "Fine."),
    ]
    [first, second] = program.session.engine.prompts
    assert second[: len(first)] == first  # the answer stands in it as it was written
    assert second[len(first) :][: len(written)] == written


def test_ctrl_c_stops_the_answer_and_keeps_what_came():
    program = chat(Tokens("a long answer", interrupt_after=6), "on it goes")
    before = signal.getsignal(signal.SIGINT)
    output, _ = run(program, "go", "and then?")
    assert said(program)[1] == ("assistant", "a long")
    assert said(program)[3] == ("assistant", "on it goes")
    assert WORDS("stopped") in output
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_before_the_first_word_gives_the_message_back():
    program = chat(Tokens("x", interrupt_after=-1), "yes")
    output, drafts = run(program, "go on", "go on then")
    assert WORDS("stopped_at_once", where=WORDS("on_line")) in output
    assert drafts[1] == "go on"
    assert said(program) == [("user", "go on then"), ("assistant", "yes")]


def test_ctrl_c_a_moment_too_late_does_nothing():
    program = chat("fine")
    program.screen.stream.flush = lambda: signal.raise_signal(signal.SIGINT) if program.session.history else None
    run(program, "hello", "/tokens")
    assert WORDS("leave_hint") not in program.screen.stream.getvalue()
    assert len(program.session.history) == 2


def test_an_error_before_the_first_word_gives_the_message_back():
    program = chat(Tokens("x", fails_after=0), "better")
    output, drafts = run(program, '"""\nmy\nwork\n"""', "again")
    assert "The answer failed: RuntimeError: out of memory" in output
    assert drafts[1] == '"""\nmy\nwork\n"""'
    assert said(program) == [("user", "again"), ("assistant", "better")]


def test_an_error_in_the_middle_keeps_what_came():
    program = chat(Tokens("half done", fails_after=4), "rest")
    output, drafts = run(program, "go", "go on")
    assert "The answer broke off: RuntimeError: out of memory" in output
    assert drafts[1] == ""
    assert said(program)[:2] == [("user", "go"), ("assistant", "half")]


def test_tracebacks_are_shown_on_request():
    assert "Traceback" in run(chat(Tokens("x", fails_after=0), tracebacks=True), "go")[0]
    assert "Traceback" not in run(chat(Tokens("x", fails_after=0)), "go")[0]


def test_the_end_of_the_room_is_told():
    program = chat(Tokens("cut", ends=False))
    assert WORDS("limit_reached") in run(program, "go")[0]
    assert said(program)[-1] == ("assistant", "cut")


def test_a_conversation_that_is_too_long_is_not_sent_and_not_cut():
    program = chat("ok", "ok", context=60)
    message = "x" * 60
    output, drafts = run(program, message, "short")
    assert re.search(r"has \d\d tokens, the limit is 60", output)
    assert drafts[1] == message
    assert said(program) == [("user", "short"), ("assistant", "ok")]


def test_an_unknown_command_loses_nothing():
    program = chat("fine")
    output, drafts = run(program, "hello", "/sytem be brief", "/zzz")
    assert "There is no command /sytem. Did you mean /system?" in output
    assert "There is no command /zzz. /help" in output
    assert drafts == ["", "", "", ""]  # a command is not in the way of the next one; the history has it
    assert said(program) == [("user", "hello"), ("assistant", "fine")]


def test_clear_forgets_all_but_the_system_prompt():
    for word in ("clear", "/clear"):
        program = chat("fine")
        run(program, "/system Be brief.", "hello", word)
        assert said(program) == [("system", "Be brief.")]


def test_a_command_with_something_after_it_does_nothing():
    program = chat("fine")
    output, _ = run(program, "hello", "/clear everything")
    assert "/clear takes nothing after it, but 'everything' stood there" in output
    assert len(program.session.history) == 2


def test_system():
    program = chat("fine")
    output, _ = run(program, "/system", "/system 你是诗人。", "/system", "hello", "/system -", "/system")
    assert output.count(WORDS("system_none")) == 2
    assert "System prompt: 你是诗人。" in output
    [prompt] = program.session.engine.prompts
    assert bytes(token for token in prompt if token < 256).startswith(b" \n " + "你是诗人。".encode())
    assert said(program) == [("user", "hello"), ("assistant", "fine")]


def test_retry_answers_the_same_message_with_another_seed():
    program = chat("first", "second", "third", seed=7)
    run(program, "a", "b", "/retry")
    prompts, seeds = program.session.engine.prompts, [params.seed for params in program.session.engine.params]
    assert prompts[1] == prompts[2]
    assert said(program)[-1] == ("assistant", "third")
    assert len(set(seeds)) == 3
    again = chat("first", "second", "third", seed=7)
    run(again, "a", "b", "/retry")
    assert [params.seed for params in again.session.engine.params] == seeds


def test_a_retry_that_gives_nothing_leaves_the_old_answer():
    program = chat("first", Tokens("x", interrupt_after=-1), Tokens("x", fails_after=0))
    run(program, "a", "/retry", "/retry")
    assert said(program) == [("user", "a"), ("assistant", "first")]
    assert program.session.history[1].ids == tuple(b"\n first")


def test_retry_with_nothing_said():
    assert WORDS("nothing_to_retry") in run(chat(), "/system x", "/retry")[0]


def test_tokens():
    program = chat("four")
    output, _ = run(program, "/tokens", "hello", "/tokens")
    assert "0 of 100000 tokens are taken by 0 messages" in output
    assert re.search(r"[1-9]\d* of 100000 tokens are taken by 2 messages", output)


def test_save_and_load(tmp_path):
    path = tmp_path / "my talk.json"
    program = chat("fine", "well")
    run(program, "/system Be brief.", "hello", f"/save {path}", "and?", f"/load {path}")
    assert said(program) == [("system", "Be brief."), ("user", "hello"), ("assistant", "fine")]
    assert program.session.history[2].ids == tuple(b"\n fine")


def test_loading_into_another_vocabulary_says_so(tmp_path):
    path = tmp_path / "talk.json"
    run(chat("fine"), "hello", f"/save {path}")
    saved = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(saved | {"vocabulary": "other"}), encoding="utf-8")
    program = chat()
    assert WORDS("other_vocabulary") in run(program, f"/load {path}")[0]
    assert said(program) == [("user", "hello"), ("assistant", "fine")]


@pytest.mark.parametrize(
    ("command", "needed"),
    [("/save", "the name of a file"), ("/load", "the name of a file"), ("/model", "a folder or hub name"),
     ("/adapter", "the folder of an adapter, or - for none")],
)  # fmt: skip
def test_a_command_without_what_it_needs(command, needed):
    assert f"{command} needs {needed}" in run(chat(), command)[0]


def test_a_conversation_is_not_saved_over_a_folder(tmp_path):
    output, _ = run(chat("fine"), "hello", f"/save {tmp_path}", f"/save {tmp_path}")
    assert output.count(WORDS("is_folder", path=tmp_path)) == 2


def test_a_failing_load_keeps_the_conversation(tmp_path):
    program = chat("fine")
    output, drafts = run(program, "hello", f"/load {tmp_path}/none.json")
    assert "none.json cannot be read" in output
    assert drafts[2] == ""
    assert len(program.session.history) == 2


@pytest.mark.parametrize("word", ["/exit", "/quit", "/bye", "stop", "exit", "quit"])
def test_leaving(word):
    program = chat("never")
    run(program, word, "hello")
    assert said(program) == []


def test_ctrl_c_twice_leaves_and_once_does_not():
    program = chat("fine")
    output, drafts = run(program, KeyboardInterrupt, "hello", KeyboardInterrupt, KeyboardInterrupt, "not read")
    assert output.count(WORDS("leave_hint")) == 2
    assert len(drafts) == 4
    assert len(program.session.history) == 2


def test_statistics_go_to_their_own_stream():
    statistics = io.StringIO()
    output, _ = run(chat("fine", statistics=statistics), "hello")
    assert output == "fine\n"
    assert re.match(r"\d+ prompt tokens, first token after ", statistics.getvalue())


def test_the_program_speaks_chinese():
    output, _ = run(chat(language="zh"), "/help", "/hepl")
    assert "/system 文本" in output
    assert "是不是 /help？" in output


def test_control_characters_of_the_model_do_not_reach_the_terminal():
    program = chat("red \x1b[31mtext\x07\x9b2J\tok")
    assert run(program, "go")[0] == "red [31mtext2J\tok\n"
    assert said(program)[-1] == ("assistant", "red \x1b[31mtext\x07\x9b2J\tok")


def test_what_the_program_quotes_does_not_reach_the_terminal_either():
    program = chat("hi")
    program.screen.note("a server says \x1b]0;pwned\x07 and \x9b2J")
    assert program.screen.stream.getvalue() == "a server says ]0;pwned and 2J\n"


def test_saving_over_a_file_needs_a_second_word(tmp_path):
    path = tmp_path / "talk.json"
    other = chat("other")
    run(other, "hi", f"/save {path}")
    program = chat("fine", "again")
    output, _ = run(program, "hello", f"/save {path}", "more", f"/save {path}", f"/save {path}")
    assert output.count(WORDS("exists", path=path)) == 1
    assert output.count("Saved 4 messages") == 2
    output, _ = run(chat("x"), f"/load {path}", "go on", f"/save {path}")  # it is the file this one came from
    assert WORDS("exists", path=path) not in output
    assert "Saved 6 messages" in output


def test_a_long_message_that_is_given_back_does_not_hide_why():
    program = chat(Tokens("x", fails_after=0), Tokens("x", fails_after=0))
    lines = "\n".join(f"line {number}" for number in range(20))
    output, drafts = run(program, f'"""{lines}"""', "short")
    assert WORDS("failed", error="RuntimeError: out of memory", where=WORDS("in_history")) in output
    assert drafts == ["", "", "short"]


def test_settings_are_shown_and_changed():
    program = chat("one", "two", "three")
    output, _ = run(
        program, "/set", "/set temperature 0.1", "hi", "/set top_k 5", "/set max_new_tokens 3", "go",
        "/set temperature -", "/set max_new_tokens -", "on", "/set temperature warm", "/set heat 1", "/set top_p 7",
        "/set top_k 1.5", "/set seed -5",
    )  # fmt: skip
    asked = [(one.temperature, one.top_k, one.max_tokens) for one in program.session.engine.params]
    assert [one[:2] for one in asked] == [(0.1, 0), (0.1, 5), (0.8, 5)]
    assert asked[1][2] == 3
    assert asked[2][2] > 3
    for words in (
        "temperature is 'warm'; it must be a number",
        "no setting 'heat'",
        "top_p is 7.0",
        "a whole number",
        "seed is -5",
    ):
        assert words in output
    assert "temperature  0.8\n" in output


def test_a_full_context_offers_to_cut_and_goes_on(tmp_path):
    program = chat("a", "b", "c", context=300)
    long = "x" * 200
    output, drafts = run(program, long, long, "/cut", long, "/cut", f"/save {tmp_path}/t.json")
    assert WORDS("may_cut") in output
    assert drafts[2] == long
    assert WORDS("cuts") in output
    assert WORDS("cuts_already") in output
    assert [text for role, text in said(program) if role == "assistant"] == ["a", "b"]
    assert "Saved 4 messages" in output


def test_another_model_goes_on_with_the_conversation():
    program, other = chat("fine", "never"), chat("from the other")
    asked = []

    def reopened(session, **changed):
        asked.append(changed)
        if changed.get("model") == "missing":
            raise ChatGLMError("no folder 'missing'")
        other.session.reopen(SavedConversation(tuple(session.history), vocabulary_of(session.tokenizer)))
        return other.session, "other"

    program = Chat(program.session, program.screen, program.bench, reopened=reopened)
    output, _ = run(program, "hello", "/model missing", "/tokens", "/model folder", "go on", "/adapter -")
    assert "no folder 'missing'" in output
    assert "by 2 messages" in output
    assert WORDS("changed", model="other") in output
    assert asked == [{"model": "missing", "adapter": None}, {"model": "folder", "adapter": None}, {"adapter": None}]
    assert said(program)[-1] == ("assistant", "from the other")
    output, _ = run(chat("x"), "/model folder")
    assert WORDS("elsewhere") in output


def test_tools_are_listed_and_numbers_are_switched_on(capsys):
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return city

    tools = ToolBox([get_weather])
    output, _ = run(chat("x", tools=list(tools)), "/tools")
    assert "get_weather  The weather of a city." in output
    output, _ = run(chat("x"), "/tools", "/stats", "hi", "/stats")
    assert WORDS("no_tools") in output
    assert "tokens/s" in capsys.readouterr().err
