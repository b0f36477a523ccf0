"""What tools are asked with and answer with: values drawn by kind, as people write them and as a call gives them."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chatglm.demo import pools
from chatglm.demo.text import Split
from chatglm.demo.wording import read_sections, rows

WORDING = read_sections("tool_pools")
PICKS = {name: rows(lines) for name, lines in WORDING.items()}  # rows: English, Chinese, and what the call gives


@dataclass(frozen=True)
class Value:
    """A value: as it stands in a sentence, and as an argument or in a result."""

    shown: str
    given: Any
    drawn: bool = False  # from an open pool, so that some are kept for the judge


def draw(kind: str, english: bool, split: Split, rng: random.Random) -> Value:
    """A value of a kind such as `city`, `int 1 100`, `pick sky`."""
    name, *arguments = kind.split()
    if name == "pick":
        return _pick(arguments[0], english, rng)
    if name not in _KINDS:
        raise ValueError(f"unknown kind of value {kind!r}; known are pick, {', '.join(_KINDS)}")
    return _KINDS[name](english, split, rng, *map(int, arguments))


def json_type(kind: str) -> str:
    """The JSON type of a kind's values."""
    return {"int": "integer", "decimal": "number", "bool": "boolean"}.get(kind.split()[0], "string")


def choices(kind: str, english: bool) -> list[Any]:
    """All values of a `pick`; nothing of an open kind."""
    name, *arguments = kind.split()
    return [_given(row, english) for row in PICKS[arguments[0]]] if name == "pick" else []


def _pick(name: str, english: bool, rng: random.Random) -> Value:
    row = rng.choice(PICKS[name])
    shown = row[0] if english or len(row) == 1 else row[1]
    return Value(shown, _given(row, english))


def _given(row: tuple[str, ...], english: bool) -> str:
    if len(row) > 2:
        return row[2]
    return row[0] if english or len(row) == 1 else row[1]


def _open(text: str) -> Value:
    return Value(text, text, drawn=True)


def _city(english: bool, split: Split, rng: random.Random) -> Value:
    return _open((pools.english_city if english else pools.chinese_city)(split, rng))


def _name(english: bool, split: Split, rng: random.Random) -> Value:
    return _open((pools.english_name if english else pools.chinese_name)(split, rng))


def _word(english: bool, split: Split, rng: random.Random) -> Value:
    return _open((pools.english_word if english else pools.chinese_word)(split, rng))


def _title(english: bool, split: Split, rng: random.Random) -> Value:
    """A made-up title of one to three words."""
    word, _, things = _word(english, split, rng).shown, None, WORDING["things"]
    row = rng.choice(rows(things))
    if english:
        return Value(
            title := rng.choice((f"{row[0].title()} of {word.title()}", f"The {word.title()}", word.title())), title
        )
    return Value(title := rng.choice((f"{word}的{row[1]}", word, f"{row[1]}与{word}")), title)


def _text(english: bool, split: Split, rng: random.Random) -> Value:
    """A short message or note: an everyday phrase, often with a name in it."""
    row = rng.choice(rows(WORDING["phrases"]))
    name = _name(english, split, rng).shown
    text = row[0 if english else 1].replace("*", name)
    return Value(text, text)


def _int(english: bool, split: Split, rng: random.Random, low: int, high: int) -> Value:
    value = pools.number(split if high > 200 else "train", rng, low, high)
    return Value(str(value), value, drawn=value > 99 and high > 200)


def _decimal(english: bool, split: Split, rng: random.Random, low: int, high: int) -> Value:
    value = round(rng.uniform(low, high), rng.choice((1, 2)))
    return Value(str(value), value)


def _date(english: bool, split: Split, rng: random.Random) -> Value:
    text = f"{rng.randint(2023, 2031)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    return Value(text, text)


def _time(english: bool, split: Split, rng: random.Random) -> Value:
    text = f"{rng.randint(0, 23):02}:{rng.choice((0, 5, 10, 15, 20, 30, 40, 45, 50)):02}"
    return Value(text, text)


def _code(english: bool, split: Split, rng: random.Random) -> Value:
    """A number as parcels, flights and orders have: letters and digits."""
    letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.choice((1, 2, 2, 3))))
    text = f"{letters}{rng.randint(10, 10 ** rng.randint(2, 6))}"
    return Value(text, text)


def _email(english: bool, split: Split, rng: random.Random) -> Value:
    text = (
        f"{pools.english_name(split, rng).lower()}@{pools.english_word(split, rng)}.{rng.choice(('com', 'org', 'cn'))}"
    )
    return Value(text, text)


def _file(english: bool, split: Split, rng: random.Random) -> Value:
    text = f"{pools.english_word(split, rng)}.{rng.choice(('txt', 'csv', 'md', 'json', 'log'))}"
    return Value(text, text)


def _path(english: bool, split: Split, rng: random.Random) -> Value:
    """A path as servers of files take it: a folder, or a file in one."""
    folder = f"/home/{pools.english_word(split, rng)}/{rng.choice(('Documents', 'Desktop', 'notes', 'work'))}"
    text = f"{folder}/{_file(english, split, rng).shown}" if rng.random() < 0.6 else folder
    return Value(text, text)


def _url(english: bool, split: Split, rng: random.Random) -> Value:
    page = rng.choice(("", "/", f"/{pools.english_word(split, rng)}", f"/docs/{pools.english_word(split, rng)}.html"))
    host = (
        f"{rng.choice(('www.', '', 'docs.'))}{pools.english_word(split, rng)}.{rng.choice(('com', 'org', 'net', 'cn'))}"
    )
    return Value(text := f"https://{host}{page}", text)


_SIGNS = {"+": ("plus", "加"), "-": ("minus", "减"), "*": ("times", "乘以"), "/": ("divided by", "除以")}


def _expression(english: bool, split: Split, rng: random.Random) -> Value:
    """An arithmetic expression, in signs or in words."""
    terms = [pools.number(split, rng, 2, 10 ** rng.randint(1, 4)) for _ in range(rng.choice((2, 2, 2, 3)))]
    signs = [rng.choice("++--**/") for _ in terms[1:]]
    given = shown = str(terms[0])
    tight = rng.random() < 0.3
    words = len(terms) == 2 and rng.random() < 0.4
    for sign, term in zip(signs, terms[1:], strict=True):
        given += f" {sign} {term}"
        if words:
            shown += f" {_SIGNS[sign][0]} {term}" if english else f"{_SIGNS[sign][1]}{term}"
        else:
            shown += f"{sign}{term}" if tight else f" {sign} {term}"
    return Value(shown, given)


_KINDS: dict[str, Callable[..., Value]] = {
    "city": _city,
    "name": _name,
    "word": _word,
    "title": _title,
    "text": _text,
    "int": _int,
    "decimal": _decimal,
    "date": _date,
    "time": _time,
    "code": _code,
    "email": _email,
    "file": _file,
    "path": _path,
    "url": _url,
    "expression": _expression,
}
