"""Families of tools, read from `sentences/tools.txt`: how they are named, asked for, answered, and what they answer.

A block for each family, its lines `key: value`:

    [weather]
    name: get_weather, weather          names the tool may have
    about: Get the weather of a city | 查询天气            descriptions in both languages
    in: city, place = city ; name of the city | 城市名     a parameter: names, kind, descriptions; `in?` optional
    out: sky = pick sky                 a value of the result
    ask / 问: ... {city} ...            ways to ask for it; parameters that are not in it are left out of the call
    done / 答: ... {sky} ...            what is answered
    lack city / 缺 city: question => reply                 asked without a parameter, and what is asked back
    kept: yes                           never in training
    like: weather                       another family that does the same
    product: weather                    a tool of the product, with its own name and schema
"""

import random
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from chatglm.demo.text import Split
from chatglm.demo.values import choices, json_type
from chatglm.demo.wording import read_sections
from chatglm.tools import Tool

_CHINESE_KEYS = {"问": "ask", "答": "done", "缺": "lack"}


@dataclass(frozen=True)
class Parameter:
    """One input or output: its possible names (the first is that of the templates), its kind, what it is."""

    names: tuple[str, ...]
    kind: str
    about: tuple[str, ...] = ("", "")  # English, Chinese
    optional: bool = False

    @property
    def name(self) -> str:
        return self.names[0]


@dataclass(frozen=True)
class Lack:
    """A question without one parameter, and what is asked back."""

    missing: str
    question: str
    reply: str


@dataclass
class Family:
    """A kind of tool, with all its words. The dicts are keyed by language, "en" and "zh"."""

    key: str
    names: tuple[str, ...] = ()
    about: list[tuple[str, str]] = field(default_factory=list)
    inputs: list[Parameter] = field(default_factory=list)
    outputs: list[Parameter] = field(default_factory=list)
    asks: dict[str, list[str]] = field(default_factory=lambda: {"en": [], "zh": []})
    done: dict[str, list[str]] = field(default_factory=lambda: {"en": [], "zh": []})
    lacks: dict[str, list[Lack]] = field(default_factory=lambda: {"en": [], "zh": []})
    kept: bool = False
    like: str = ""
    product: str = ""

    @property
    def group(self) -> str:
        """Families of one group do the same, so one of them is never called unfit for what another is asked."""
        return self.like or self.key


@dataclass(frozen=True)
class Offered:
    """A family as one conversation offers it: under a name, with names of its parameters and a schema."""

    family: Family
    name: str
    parameters: dict[str, str]  # name in the templates: name in the schema
    schema: dict[str, Any]


@cache
def families() -> dict[str, Family]:
    """All families by their keys."""
    return {key: _family(key, lines) for key, lines in read_sections("tools").items()}


def families_of(split: Split) -> list[Family]:
    """The families of a split: two whole ones are only the judge's."""
    return [family for family in families().values() if not family.kept or split == "family"]


def offered(family: Family, english: bool, rng: random.Random) -> Offered:
    """A tool of the family, with its name and the words of its schema chosen."""
    if family.product:
        schema = product_schemas()[family.product]
        return Offered(family, schema["name"], {one.name: one.name for one in family.inputs}, schema)
    names = {one.name: rng.choice(one.names) for one in family.inputs}
    language = 0 if english or rng.random() < 0.3 else 1
    described = rng.random() < 0.85
    properties = {names[one.name]: _property(one, language, described, english, rng) for one in family.inputs}
    parameters = {
        "type": "object",
        "properties": properties,
        "required": [names[one.name] for one in family.inputs if not one.optional],
    }
    name = rng.choice(family.names)
    about = rng.choice(family.about)[language]
    return Offered(family, name, names, {"name": name, "description": about, "parameters": parameters})


def _property(one: Parameter, language: int, described: bool, english: bool, rng: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {"type": json_type(one.kind)}
    if described and one.about[language]:
        found["description"] = one.about[language]
    listed = choices(one.kind, english)
    if 0 < len(listed) <= 4 and rng.random() < 0.5:
        found["enum"] = listed
    return found


@cache
def product_schemas() -> dict[str, dict[str, Any]]:
    """Schemas of the product's own tools, as it renders them, and of the servers of its example configuration."""
    from chatglm.tools import builtin_tools

    found = builtin_tools(allow_hosts=["*"], sandbox=_NoFiles())
    served = [Tool.from_schema(schema) for schema in SERVED]
    return {tool.name: tool.schema() for tool in [*found, *served]}


class _NoFiles:
    """A file store nobody asks: only the schemas of the tools over it are wanted."""

    def put(self, name: str, data: bytes, /) -> Any:
        raise AssertionError(name)

    def get(self, name: str, /) -> bytes:
        raise AssertionError(name)

    def list(self) -> Any:
        return []


def _served(name: str, description: str, **properties: str) -> dict[str, Any]:
    described = {key: {"type": "string", "description": text} for key, text in properties.items()}
    parameters = {"type": "object", "properties": described, "required": list(described)}
    return {"name": name, "description": description, "parameters": parameters}


_ZONE = (
    "IANA timezone name (e.g., 'America/New_York', 'Europe/London'). Use 'Asia/Shanghai' as local timezone if no "
    "{} provided by the user."
)
# What the servers of examples/mcp.json describe themselves as, the longest descriptions cut after their first sentence.
SERVED: tuple[dict[str, Any], ...] = (
    _served("get_current_time", "Get current time in a specific timezones", timezone=_ZONE.format("timezone")),
    _served(
        "convert_time",
        "Convert time between timezones",
        source_timezone="Source " + _ZONE.format("source timezone"),
        time="Time to convert in 24-hour format (HH:MM)",
        target_timezone="Target " + _ZONE.format("target timezone"),
    ),
    {
        "name": "read_text_file",
        "description": "Read the complete contents of a file from the file system as text. Only works within allowed "
        "directories.",
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "head": {
                    "type": "number",
                    "description": "If provided, returns only the first N lines of the file",
                },
            },
            "required": ["path"],
        },
    },
    {
        "name": "list_directory",
        "description": "Get a detailed listing of all files and directories in a specified path. Results clearly "
        "distinguish between files and directories with [FILE] and [DIR] prefixes. Only works within allowed "
        "directories.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
)


def _family(key: str, lines: tuple[str, ...]) -> Family:
    family = Family(key)
    for line in lines:
        name, value = (part.strip() for part in line.split(":", 1))
        _read(family, name, value)
    if not family.asks["en"] or not family.asks["zh"]:
        raise ValueError(f"the tool family {key!r} has no way to be asked for in one of the languages")
    return family


def _read(family: Family, name: str, value: str) -> None:
    word, _, missing = name.partition(" ")
    language = "zh" if word in _CHINESE_KEYS else "en"
    match _CHINESE_KEYS.get(word, word):
        case "name":
            family.names = tuple(value.split(", "))
        case "about":
            english, chinese = value.split(" | ")
            family.about.append((english, chinese))
        case "in" | "in?":
            family.inputs.append(_parameter(value, optional=word == "in?"))
        case "out":
            family.outputs.append(_parameter(value, optional=False))
        case "ask":
            family.asks[language].append(value)
        case "done":
            family.done[language].append(value)
        case "lack":
            question, reply = value.split(" => ")
            family.lacks[language].append(Lack(missing, question, reply))
        case "kept":
            family.kept = value == "yes"
        case "like":
            family.like = value
        case "product":
            family.product = value
        case _:
            raise ValueError(f"the tool family {family.key!r} has a line {name!r}, which is not known")


def _parameter(text: str, optional: bool) -> Parameter:
    names, _, rest = text.partition(" = ")
    kind, _, about = rest.partition(" ; ")
    english, _, chinese = about.partition(" | ")
    return Parameter(tuple(names.split(", ")), kind.strip(), (english, chinese), optional)
