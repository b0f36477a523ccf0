"""Calls of tools: the right one of those offered, with the right arguments, and an answer that tells the result."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chatglm.chat.call import format_tool_call
from chatglm.demo import observations
from chatglm.demo.families import Family, Lack, Offered, families_of, offered
from chatglm.demo.invented import invent
from chatglm.demo.observations import Values
from chatglm.demo.text import Split, Step, Turn, expand, fill, habits, phrasings
from chatglm.demo.values import draw
from chatglm.demo.wording import read_sections
from chatglm.errors import ToolError
from chatglm.tools import Tool
from chatglm.tools.tool_forms import to_composite

WORDING = read_sections("tool_use")
_COMPOSITE_SHARE = 0.2  # of conversations whose tools are in the form of the official composite demo
_INVENTED_SHARE = 0.3  # of offered tools that exist nowhere, so that schemas have to be read
_PRODUCT_SHARE = 0.3  # of conversations with the product's own tools first
_KINDS = {"plain": 54, "more": 8, "two": 9, "lacking": 8, "unfit": 9, "failing": 7, "mistaken": 5}


@dataclass(frozen=True)
class Offer:
    """The tools of one conversation, and the language of its schemas."""

    tools: tuple[Offered, ...]
    english: bool
    schemas: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class _Asked:
    """One request: what is said, what is called with, and the values by their names in the templates."""

    text: str
    given: Values


def offer(split: Split, rng: random.Random) -> Offer:
    """One to five tools; on the split of kept families at least one of these."""
    english = rng.random() < 0.5
    wanted = rng.choice((1, 1, 2, 2, 3, 3, 4, 5))
    found: dict[str, Offered] = {}
    families = families_of(split)
    if split == "family":
        kept = rng.choice([family for family in families if family.kept])
        found[kept.group] = offered(kept, english, rng)
    own = rng.random() < _PRODUCT_SHARE
    while len(found) < wanted:
        family = _family(families, own, rng)
        if not family.kept:
            found.setdefault(family.group, offered(family, english, rng))
    tools = _named_apart(list(found.values()))
    rng.shuffle(tools)
    forms = [Tool.from_schema(tool.schema).schema() for tool in tools]
    schemas = [to_composite(form) for form in forms] if rng.random() < _COMPOSITE_SHARE else forms
    return Offer(tuple(tools), english, tuple(schemas))


def _family(families: Sequence[Family], own: bool, rng: random.Random) -> Family:
    if own and rng.random() < 0.7:
        return rng.choice([family for family in families if family.product])
    if rng.random() < _INVENTED_SHARE:
        return invent(rng)
    return rng.choice([family for family in families if not family.product])


def _named_apart(tools: list[Offered]) -> list[Offered]:
    return list({tool.name: tool for tool in tools}.values())


def dialogue(offer: Offer, split: Split, rng: random.Random) -> list[Turn]:
    """Turns that need the tools, or seem to."""
    kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
    english = offer.english if rng.random() < 0.9 else not offer.english
    if split == "family":
        kind = "plain"
    return _dialogue(kind, offer, english, split, rng)


def _dialogue(kind: str, offer: Offer, english: bool, split: Split, rng: random.Random) -> list[Turn]:
    tools = [tool for tool in offer.tools if tool.family.kept] if split == "family" else offer.tools
    tool = rng.choice(tools)
    if kind == "unfit":
        return [_unfit(offer, english, split, rng)]
    if kind == "lacking" and tool.family.lacks[_language(english)]:
        return _lacking(tool, english, split, rng)
    if kind == "failing":
        return [_failing(tool, english, split, rng)]
    first = _plain(tool, english, split, rng)
    if kind == "more" and len(tool.family.inputs) == 1:
        return [first, _more(tool, first, english, split, rng)]
    if kind == "two":
        return [_joined(first, _plain(rng.choice(tools), english, split, rng), english, rng)]
    if kind == "mistaken":
        return [_mistaken(first, tool, rng)]
    return [first]


def _language(english: bool) -> str:
    return "en" if english else "zh"


def _plain(tool: Offered, english: bool, split: Split, rng: random.Random) -> Turn:
    """A request, its call, and the answer."""
    asked = _ask(tool, english, split, rng)
    return _carried_out(tool, asked.text, asked.given, english, split, rng)


def _ask(tool: Offered, english: bool, split: Split, rng: random.Random) -> _Asked:
    template = expand(rng.choice(phrasings(tool.family.asks[_language(english)], split)), rng)
    given = _given(tool.family, template, english, split, rng)
    slots = {name: value.shown for name, value in given.items()}
    return _Asked(fill(habits(template, rng), slots), given)


def _given(family: Family, template: str, english: bool, split: Split, rng: random.Random) -> Values:
    """Values of the parameters that stand in a template, no two the same."""
    while True:
        found = {
            one.name: draw(one.kind, english, split, rng) for one in family.inputs if f"{{{one.name}}}" in template
        }
        if len({value.shown for value in found.values()}) == len(found):
            return found


def _carried_out(tool: Offered, text: str, given: Values, english: bool, split: Split, rng: random.Random) -> Turn:
    """The turn of a request whose values are known."""
    try:
        observation, results = observations.answer_of(tool, given, english, split, rng)
    except ToolError as error:
        return _told_failure(tool, text, given, str(error), english)
    slots = {name: value.shown for name, value in {**given, **results}.items()}
    answers = tuple(fill(done, slots) for done in tool.family.done[_language(english)])
    told = [value for name, value in results.items() if any(f"{{{name}}}" in done for done in _done(tool, english))]
    step = Step(tool.name, format_tool_call(_arguments(tool, given)), observation, _arguments(tool, given))
    drawn = tuple(value.shown for value in (*given.values(), *results.values()) if value.drawn)
    return Turn(text, answers[0], answers, "", (step,), tuple(value.shown for value in told), drawn)


def _done(tool: Offered, english: bool) -> list[str]:
    return tool.family.done[_language(english)]


def _arguments(tool: Offered, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call, by their names in the schema and in its order."""
    names = [one.name for one in tool.family.inputs if one.name in given]
    return {tool.parameters[name]: given[name].given for name in names}


def _more(tool: Offered, first: Turn, english: bool, split: Split, rng: random.Random) -> Turn:
    """The same asked for another value, in a word."""
    one = tool.family.inputs[0]
    value = draw(one.kind, english, split, rng)
    if not first.steps[0].arguments:  # there was nothing the first time
        return _plain(tool, english, split, rng)
    text = rng.choice(WORDING[f"more {_language(english)}"]).format(value=value.shown)
    return _carried_out(tool, text, {one.name: value}, english, split, rng)


def _joined(first: Turn, second: Turn, english: bool, rng: random.Random) -> Turn:
    """Two requests in one message: two calls, one after the other, and both results in the answer."""
    link = rng.choice(WORDING[f"link {_language(english)}"])
    said = first.user.rstrip()
    pause = "" if said.endswith(tuple("？?。.！!")) else "." if english else "，"
    text = said + pause + (" " if english else "") + link + second.user
    answer = f"{first.answer} {second.answer}" if english else first.answer + second.answer
    return Turn(
        text,
        answer,
        (answer,),
        "",
        first.steps + second.steps,
        first.values + second.values,
        first.drawn + second.drawn,
    )


def _lacking(tool: Offered, english: bool, split: Split, rng: random.Random) -> list[Turn]:
    """Asked without something the tool needs: asks back, and calls once it is told."""
    lack: Lack = rng.choice(tool.family.lacks[_language(english)])
    template = expand(lack.question, rng)
    missing = next(one for one in tool.family.inputs if one.name == lack.missing)
    given = _given(tool.family, template + f"{{{lack.missing}}}", english, split, rng)
    slots = {name: value.shown for name, value in given.items()}
    reply = fill(lack.reply, slots)
    first = Turn(fill(habits(template, rng), slots), reply, (reply,))
    value = rng.choice(WORDING[f"told {_language(english)}"]).format(value=slots[missing.name])
    ordered = {one.name: given[one.name] for one in tool.family.inputs if one.name in given}
    return [first, _carried_out(tool, value, ordered, english, split, rng)]


def _unfit(offer: Offer, english: bool, split: Split, rng: random.Random) -> Turn:
    """A request that none of the tools is for."""
    groups = {tool.family.group for tool in offer.tools}
    others = [family for family in families_of("train") if family.group not in groups and family.key not in groups]
    stranger = offered(rng.choice(others), english, rng)
    asked = _ask(stranger, english, split, rng)
    answers = WORDING[f"unfit {_language(english)}"]
    drawn = tuple(value.shown for value in asked.given.values() if value.drawn)
    return Turn(asked.text, rng.choice(answers), answers, drawn=drawn)


def _failing(tool: Offered, english: bool, split: Split, rng: random.Random) -> Turn:
    asked = _ask(tool, english, split, rng)
    return _told_failure(tool, asked.text, asked.given, observations.reason(rng), english)


def _told_failure(tool: Offered, text: str, given: Values, reason: str, english: bool) -> Turn:
    """A call whose tool failed, told honestly."""
    template = WORDING[f"failed {_language(english)}"][0]
    answer = template.format(reason=reason.rstrip("."))
    arguments = _arguments(tool, given)
    step = Step(tool.name, format_tool_call(arguments), observations.failed(tool, reason), arguments)
    drawn = tuple(value.shown for value in given.values() if value.drawn)
    return Turn(text, answer, (answer,), "", (step,), (reason.rstrip("."),), drawn)


def _mistaken(turn: Turn, tool: Offered, rng: random.Random) -> Turn:
    """A call with a wrong argument before the right one; the wrong one is shown and not learned."""
    step = turn.steps[0]
    if not step.arguments or step.observation.startswith("Error"):
        return turn
    name = rng.choice(list(step.arguments))
    if rng.random() < 0.5:
        wrong = {key: value for key, value in step.arguments.items() if key != name}
        problem = f"{name} is missing"
    else:
        typo = name[:-1] if len(name) > 3 else name + "s"
        wrong = {(typo if key == name else key): value for key, value in step.arguments.items()}
        known = ", ".join(tool.schema["parameters"]["properties"])
        problem = f"{typo} is not known; did you mean {name}?; known here: {known}"
    mistake = Step(step.name, format_tool_call(wrong), observations.refused(tool, problem), wrong, learned=False)
    return replace(turn, steps=(mistake, *turn.steps))
