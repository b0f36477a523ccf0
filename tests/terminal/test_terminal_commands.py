"""What a typed line means."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chatglm.terminal.commands import COMMANDS, Do, Say, Unknown, is_complete, read_line, unquote_block


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("你好", Say("你好")),
        ("  hello  ", Say("hello")),
        ("", None),
        (" \n ", None),
        ("/clear", Do("/clear")),
        ("/quit", Do("/exit")),
        ("/?", Do("/help")),
        ("/save my talk.json ", Do("/save", "my talk.json")),
        ("/system Be brief.\nAlways.", Do("/system", "Be brief.\nAlways.")),
        ("clear", Do("/clear")),
        ("stop", Do("/exit")),
        ("Stop", Say("Stop")),
        ("stop it", Say("stop it")),
        ("清空", Say("清空")),
        ("//etc/passwd", Say("/etc/passwd")),
        ("/sytem x", Unknown("/sytem", "/system")),
        ("/CLEAR", Unknown("/CLEAR", "/clear")),
        ("/zzzzzz", Unknown("/zzzzzz", "")),
        ("/", Unknown("/", "")),
        ('"""\n/clear\nstop\n"""', Say("/clear\nstop")),
        ('"""stop"""', Say("stop")),
        ("one\\\ntwo", Say("one\ntwo")),
    ],
)
def test_meaning(line, meaning):
    assert read_line(line) == meaning


@given(st.text() | st.sampled_from(["stop", "clear", "/clear", "//", "\\"]))
def test_nothing_typed_is_lost(text):
    """In a block of quotes any text reaches the model as it is, up to the empty lines around it."""
    assume(text.strip() and '"""' not in text)
    assert read_line(f'"""\n{text}\n"""') == Say(text.strip("\n"))


@given(st.sampled_from(sorted(COMMANDS)), st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_command_keeps_its_whole_argument(command, argument):
    assert read_line(f"{command} {argument}") == Do(command, argument.strip())


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("a", True),
        ("a\\", False),
        ("a\\\nb", True),
        ('"""', False),
        ('"""\na', False),
        ('"""\na\n"""', True),
        ("", True),
    ],
)
def test_when_enter_ends_the_input(text, complete):
    assert is_complete(text) is complete


def test_marks_of_several_lines_are_removed():
    assert unquote_block('"""\na\n\nb\n"""') == "a\n\nb"
    assert unquote_block("a\\b") == "a\\b"
