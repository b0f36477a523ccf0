"""Random answers through the parser: `python tests/fuzz_parser.py --seconds 10`.

Whatever the ids, the parser must not raise, lose text or run anything; what it says it read must be a plain value; and
calls that are written well must be read. The first stream that breaks this is printed with its seed, and the program
ends with status 1.
"""

import argparse
import math
import os
import random
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from byte_text import SPECIALS, STOP_IDS, ByteDecoder, decode, encode

from chatglm.chat.call import format_tool_call
from chatglm.chat.message import Done, TextDelta, ToolCallDelta, ToolCallDone
from chatglm.chat.parser import StreamParser
from chatglm.chat.template import render

ASSISTANT = SPECIALS["<|assistant|>"]
OFFERS = [None, True, False, (), ("get_weather",), ("get_weather", "查询", "a.b")]

# Pieces that mean something to somebody: the parser, the reader of calls, Python, or people.
WORDS = [
    *"get_weather 查询 interpreter tool_call ( ) [ ] { } = : , ' \" \\ # \n ` - + . * ** 1 0x 1e9 _ a".split(" "),
    *["\n", "\n\n", " ", "```", "```python\n", "\n```", "```json\n", "tool_call(", "get_weather\n", "interpreter\n"],
    *["'''", '"""', "f'", "r'", "b'", "\\u4e2d", "\\ud800", "\\x", "\\N{", "true", "None", "null", "NaN", "Infinity"],
    *["[[训练时间]]", "[[训练", "你好", "👋", "\u2028", "\x00", "\r\n", "\t", "<|assistant|>", "<|user|>", "</s>"],
    *[
        "__import__('os').system('true')",
        "lambda: 0",
        "x for x in y",
        "9**9**9",
        "if",
        "else",
        "await ",
        "yield ",
        ":=",
    ],
]
EVENTS = frozenset(["exec", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen"])
FORBIDDEN = EVENTS | {"socket.connect", "socket.getaddrinfo", "open", "os.remove", "os.mkdir", "pickle.find_class"}


class Watch:
    """Notices what Python itself reports: code that is run, programs, files and connections that are opened."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)
        warnings.simplefilter("always")
        warnings.showwarning = self._warned

    def _warned(self, message: Warning | str, *where: object) -> None:
        self.seen.append(f"it printed the warning {message}")

    def _hear(self, event: str, arguments: tuple) -> None:
        if self.on and event in FORBIDDEN:
            self.seen.append(f"{event}{arguments!r}"[:200])


def value(choose: random.Random, depth: int = 0):
    """A random value a call can carry."""
    kind = choose.randrange(9 if depth < 3 else 7)
    if kind == 7:
        return [value(choose, depth + 1) for _ in range(choose.randrange(4))]
    if kind == 8:
        return {text(choose, 2): value(choose, depth + 1) for _ in range(choose.randrange(4))}
    number = choose.choice([0.5, -2.25, 1e300, 5e-324, 123456.789])
    return [None, True, False, choose.randrange(-(10**20), 10**20), number, text(choose, 6), text(choose, 1)][kind]


def text(choose: random.Random, longest: int) -> str:
    found = "".join(choose.choices(WORDS, k=choose.randrange(longest + 1)))
    return found.encode("utf-8", "replace").decode()


def written_call(choose: random.Random) -> tuple[str, dict]:
    """A well-formed call, as the model was trained to write it or as JSON, and its arguments."""
    import json

    names = choose.sample(["city", "from", "max-n", "参数", "x", "a.b"], k=choose.randrange(4))
    arguments = {name: value(choose) for name in names}
    if choose.random() < 0.5:
        return format_tool_call(arguments), arguments
    written = json.dumps(arguments, ensure_ascii=choose.random() < 0.5, indent=choose.choice([None, 2]))
    if choose.random() < 0.5:  # Python's form with JSON's constants
        inside = ", ".join(f"{name}={json.dumps(item, ensure_ascii=False)}" for name, item in arguments.items())
        return f"```python\ntool_call({inside})\n```", arguments
    return f"```json\n{written}\n```", arguments


def stream(choose: random.Random) -> list[int]:
    """The ids of a random answer: nonsense, sense, and sense with damage."""
    kind = choose.random()
    if kind < 0.15:
        return [
            choose.choice([choose.randrange(256), choose.randrange(-5, 400), 10]) for _ in range(choose.randrange(60))
        ]
    ids: list[int] = []
    for _ in range(choose.randrange(1, 4)):
        ids += encode(choose.choice(["", "get_weather", "查询", "interpreter", "nobody", text(choose, 2)]) + "\n")
        ids += encode(written_call(choose)[0] if choose.random() < 0.5 else text(choose, 25))
        ids += [ASSISTANT] if choose.random() < 0.7 else []
    for _ in range(choose.randrange(4) if kind < 0.6 else 0):
        place = choose.randrange(len(ids) + 1)
        ids[place : place + choose.randrange(3)] = choose.choices([*range(256), *SPECIALS.values(), 2**40, -1], k=2)
    return ids


def check_stream(ids: list[int], tools) -> None:
    """All that must hold for any ids. Raises AssertionError."""
    parser = StreamParser(ByteDecoder(), assistant_id=ASSISTANT, stop_ids=STOP_IDS, tools=tools)
    events = [event for token in ids for event in parser.feed(token)]
    events += parser.finish("length")
    end = next((place for place, token in enumerate(ids) if token in STOP_IDS), len(ids))
    runs: list[list[int]] = [[]]
    for token in ids[:end]:
        if token == ASSISTANT:
            runs.append([])
        else:
            runs[-1].append(token)
    assert [list(segment.ids) for segment in parser.segments] == runs, "ids were lost"
    assert [segment.raw for segment in parser.segments] == [decode(run) for run in runs], "text was lost"
    assert [event for event in events if isinstance(event, Done)] == events[-1:], "the end is not the end"
    shown = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert shown == "".join(one.display for one in parser.segments if one.kind == "text"), "shown text differs"
    calls = "".join(event.text for event in events if isinstance(event, ToolCallDelta))
    assert calls == "".join(one.content for one in parser.segments if one.kind != "text"), "shown calls differ"
    for event in events:
        if isinstance(event, ToolCallDone):
            assert (event.call.arguments is None) == (event.call.error is not None), "neither read nor refused"
            assert event.call.arguments is None or is_plain(event.call.arguments), "not a plain value"
    messages = [segment.message() for segment in parser.segments]
    again = render(messages, encode, SPECIALS, add_generation_prompt=False).ids
    assert again[2:] == [ASSISTANT, *ids[:end]], "it renders to other ids"


def is_plain(found) -> bool:
    if isinstance(found, dict):
        return all(is_plain(key) and is_plain(item) for key, item in found.items())
    if isinstance(found, (list, tuple)):
        return all(map(is_plain, found))
    return type(found) in (str, int, bool, type(None)) or (type(found) is float and math.isfinite(found))


def check_call(written: str, arguments: dict) -> None:
    """A call that is written well is read. Raises AssertionError."""
    parser = StreamParser(ByteDecoder(), assistant_id=ASSISTANT, stop_ids=STOP_IDS, tools=("get_weather",))
    for token in [*encode("get_weather\n"), *encode(written)]:
        parser.feed(token)
    parser.finish()
    (segment,) = parser.segments
    assert segment.call is not None, "a call was not recognised"
    assert segment.call.arguments == arguments, f"a call was read as {segment.call.arguments!r} ({segment.call.error})"


def run_one(seed: int, watch: Watch) -> str | None:
    """The streams of one seed: what went wrong, or None."""
    choose = random.Random(seed)
    ids, tools = stream(choose), choose.choice(OFFERS)
    written, arguments = written_call(choose)
    watch.on = True
    try:
        check_stream(ids, tools)
        check_call(written, arguments)
    except Exception as error:
        return (
            f"{type(error).__name__}: {error}\nids: {ids}\ntools: {tools}\ncall: {written!r}\narguments: {arguments!r}"
        )
    finally:
        watch.on = False
    return f"{watch.seen}\nids: {ids}\ncall: {written!r}" if watch.seen else None


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=10.0, help="how long")
    options.add_argument("--streams", type=int, default=None, help="how many at most")
    options.add_argument("--seed", type=int, default=None, help="the seed of the first stream; they count up from it")
    given = options.parse_args()
    first = int.from_bytes(os.urandom(6), "big") if given.seed is None else given.seed
    watch, end, done = Watch(), time.monotonic() + given.seconds, 0
    say(f"fuzz_parser: first seed {first}")
    while time.monotonic() < end and (given.streams is None or done < given.streams):
        wrong = run_one(first + done, watch)
        if wrong is not None:
            say(f"fuzz_parser: seed {first + done} fails (again with --seed {first + done} --streams 1)\n{wrong}")
            return 1
        done += 1
    say(f"fuzz_parser: {done} streams, nothing wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())
