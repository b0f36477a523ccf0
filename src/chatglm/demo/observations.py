"""What tools answer, worded as the product words it: results, failures, refused arguments."""

import json
import random
from collections.abc import Callable, Mapping

from chatglm.chat.message import FILES_FOLDER
from chatglm.demo.families import Offered
from chatglm.demo.text import Split
from chatglm.demo.values import PICKS, Value, draw
from chatglm.errors import ToolError
from chatglm.tools import Tool
from chatglm.tools.builtin.calculator import calculate

Values = dict[str, Value]
_OWN_WORDS = 0.25  # of results that are lines of text instead of JSON


def answer_of(tool: Offered, given: Values, english: bool, split: Split, rng: random.Random) -> tuple[str, Values]:
    """The text of a result, and the values in it by the names of the templates.

    Raises:
        ToolError: the tool has no answer to this.
    """
    found = {one.name: draw(one.kind, english, split, rng) for one in tool.family.outputs}
    special = _PRODUCT.get(tool.family.product or ("calculator" if tool.family.key == "calculator" else ""))
    if special is not None:
        return special(given, found, english, rng)
    named = {rng.choice(one.names): found[one.name].given for one in tool.family.outputs}
    if rng.random() < 0.2:  # many services say what they were asked
        asked = {tool.parameters[name]: value.given for name, value in list(given.items())[:1]}
        named = {**asked, **named}
    if rng.random() < _OWN_WORDS:
        return ", ".join(f"{key}: {value}" for key, value in named.items()), found
    return json.dumps(named, ensure_ascii=False), found


def failed(tool: Offered, reason: str) -> str:
    """How the product tells of a tool that failed."""
    end = "" if reason.endswith((".", "?", "!")) else "."
    return f"Error: {tool.name} failed: {reason}{end}"


def refused(tool: Offered, problem: str) -> str:
    """How the product tells of wrong arguments."""
    usage = Tool.from_schema(tool.schema).usage()
    return f"Error: wrong arguments for {tool.name}: {problem}. {usage}"


def reason(rng: random.Random) -> str:
    """Why a tool failed."""
    return rng.choice(PICKS["reason"])[0]


def _calculated(given: Values, found: Values, english: bool, rng: random.Random) -> tuple[str, Values]:
    result = calculate(str(given["expression"].given))
    if len(result) > 20:
        raise ToolError(f"a result of {len(result)} characters")
    return result, {"value": Value(result, result)}


def _time(given: Values, found: Values, english: bool, rng: random.Random) -> tuple[str, Values]:
    zone = given["timezone"].given if "timezone" in given else rng.choice(("CST", "UTC", "CET", "EST", "JST"))
    clock = f"{found['clock'].shown}:{rng.randint(0, 59):02}"
    offset = f"{rng.choice('+-')}{rng.randint(0, 11):02}:00"
    text = f"{found['date'].shown} {clock} {found['day'].shown}, {zone} (UTC{offset})"
    return text, {**found, "clock": Value(clock, clock)}


def _weather(given: Values, found: Values, english: bool, rng: random.Random) -> tuple[str, Values]:
    degrees = float(found["degrees"].given)
    sky = found["sky"] = rng.choice([Value(row[0], row[0]) for row in PICKS["weather_words"]])
    start = rng.randint(1, 20)
    days = range(int(given["days"].given) if "days" in given else 1)
    month = f"{rng.randint(2024, 2031)}-{rng.randint(1, 12):02}"
    forecast = [
        {
            "date": f"{month}-{start + day:02}",
            "sky": rng.choice(PICKS["weather_words"])[0],
            "high_celsius": round(degrees + rng.uniform(0, 5), 1),
            "low_celsius": round(degrees - rng.uniform(0, 8), 1),
            "rain_percent": rng.randint(0, 100),
        }
        for day in days
    ]
    result = {
        "place": str(given["city"].given),
        "time": f"{month}-{start:02}T{rng.randint(0, 23):02}:{rng.choice(('00', '15', '30', '45'))}",
        "sky": sky.given,
        "temperature_celsius": degrees,
        "feels_like_celsius": round(degrees + rng.uniform(-4, 3), 1),
        "humidity_percent": rng.randint(10, 100),
        "wind_km_per_hour": round(rng.uniform(0, 45), 1),
        "forecast": forecast,
    }
    return json.dumps(result, ensure_ascii=False), found


def _page(given: Values, found: Values, english: bool, rng: random.Random) -> tuple[str, Values]:
    return found["title"].shown, found


def _listed(given: Values, found: Values, english: bool, rng: random.Random) -> tuple[str, Values]:
    names = [found["files"].shown] + [draw("file", english, "train", rng).shown for _ in range(rng.choice((0, 1, 2)))]
    shown = ", ".join(names) if english else "、".join(names)
    text = "\n".join(f"{name} ({rng.randint(1, 99999)} bytes)" for name in names)
    return text, {"files": Value(shown, names)}


def _read(given: Values, found: Values, english: bool, rng: random.Random) -> tuple[str, Values]:
    return found["line"].shown, found


def _directory(given: Values, found: Values, english: bool, rng: random.Random) -> tuple[str, Values]:
    names = [found["files"].shown] + [draw("file", english, "train", rng).shown for _ in range(rng.choice((0, 1)))]
    folders = rng.sample(("old", "images", "letters", "2025", "backup"), rng.choice((0, 1)))
    text = "\n".join([f"[FILE] {name}" for name in names] + [f"[DIR] {name}" for name in folders])
    shown = ", ".join([*names, *folders]) if english else "、".join([*names, *folders])
    return text, {"files": Value(shown, names)}


def _written(given: Values, found: Values, english: bool, rng: random.Random) -> tuple[str, Values]:
    size = len(str(given["text"].given).encode())
    return f"{FILES_FOLDER}/{given['name'].given} has {size} bytes now.", {"size": Value(str(size), size)}


def _served_time(given: Values, found: Values, english: bool, rng: random.Random) -> tuple[str, Values]:
    zone, day = given["timezone"].given, found["day"].shown
    clock = f"{found['clock'].shown}:{rng.randint(0, 59):02}"
    moment = f"{found['date'].shown}T{clock}{rng.choice('+-')}{rng.randint(0, 11):02}:00"
    result = {"timezone": zone, "datetime": moment, "day_of_week": day, "is_dst": rng.random() < 0.4}
    return json.dumps(result, indent=2), {**found, "clock": Value(clock, clock)}


def _converted(given: Values, found: Values, english: bool, rng: random.Random) -> tuple[str, Values]:
    date = draw("date", english, "train", rng).shown
    moments = (
        {"timezone": given[zone].given, "datetime": f"{date}T{clock}:00{rng.choice('+-')}0{rng.randint(0, 9)}:00"}
        for zone, clock in (("source_timezone", given["time"].shown), ("target_timezone", found["clock"].shown))
    )
    source, target = ({**moment, "is_dst": False} for moment in moments)
    difference = f"{rng.choice('+-')}{rng.randint(1, 12)}.0h"
    return json.dumps({"source": source, "target": target, "time_difference": difference}, indent=2), found


_PRODUCT: Mapping[str, Callable[[Values, Values, bool, random.Random], tuple[str, Values]]] = {
    "calculator": _calculated,
    "current_time": _time,
    "weather": _weather,
    "web_fetch": _page,
    "list_files": _listed,
    "read_file": _read,
    "write_file": _written,
    "read_text_file": _read,
    "list_directory": _directory,
    "get_current_time": _served_time,
    "convert_time": _converted,
}
