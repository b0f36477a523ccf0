"""Sessions whose model writes what a script says; Ctrl-C and errors come where the script wants them."""

import io
import re
import signal

from agent.scripted_engine import END, ByteTokenizer, ScriptedEngine, say
from byte_text import SPECIALS

from chatglm.agent.session import Session
from chatglm.engine.request import SamplingParams
from chatglm.terminal.app import Chat
from chatglm.terminal.screen import Screen
from chatglm.terminal.workbench import Workbench
from chatglm.words import Words

LEAD = 2  # tokens of the empty first line


class Tokens(list):
    """The ids of a text, in the middle of which something happens."""

    def __init__(self, text, *, interrupt_after=None, fails_after=None, ends=True):
        super().__init__(f"\n {text}".encode())
        self.places = {interrupt_after: interrupt, fails_after: fail}
        self.end = [SPECIALS[END]] if ends else []

    def __iter__(self):
        for place, token in enumerate(super().__iter__()):
            self.places.get(place - LEAD, bool)()
            yield token
        yield from self.end


def interrupt():
    """What Ctrl-C does to a process, delivered before this returns."""
    signal.raise_signal(signal.SIGINT)


def fail():
    raise RuntimeError("out of memory")


def model(*script, context=100_000, version="chatglm3"):
    """An engine and a tokenizer; texts of the script are plain answers."""
    steps = [say(step) if isinstance(step, str) and not re.search(r"<.*>$", step) else step for step in script]
    return ScriptedEngine(*steps, context=context), ByteTokenizer(version)


def chat(
    *script,
    language="en",
    context=100_000,
    version="chatglm3",
    seed=None,
    tools=(),
    sandbox=None,
    folder=".",
    ask=None,
    **options,
):
    """The interactive program over such a model; what it writes is in `program.screen.stream`."""
    engine, tokenizer = model(*script, context=context, version=version)
    bench = Workbench(tools, sandbox, folder)
    screen = Screen(io.StringIO(), Words(language), color=False, bench=bench)
    session = Session(
        engine, tokenizer, tools=tools, sandbox=sandbox, on_dangerous=ask, when_full="refuse",
        params=SamplingParams(temperature=0.8, top_p=0.8, seed=seed), max_seconds=None,
    )  # fmt: skip
    return Chat(session, screen, bench, **options)


def said(program):
    """Roles and texts of the conversation; without a system message that only tells of tools or code."""
    history = program.session.history
    return [(str(m.role), m.content) for m in history if str(m.role) != "system" or program.session.system]
