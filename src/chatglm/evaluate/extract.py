"""Finds the answer in what a model has written, English or Chinese. None: there is none to be found.

Every extractor takes what was written and the item, and knows nothing of what would be right.
"""

import ast
import json
import re
import textwrap
import unicodedata
from collections.abc import Callable, Mapping

from chatglm.evaluate.calls import written_calls
from chatglm.evaluate.item import Item
from chatglm.evaluate.rows import boxed

_MARK = re.compile(
    r"(?:answer\s*(?:is|was|:|=|equals|would be|should be|must be|comes to)|"
    r"(?:答案|结果|得数)\s*(?:就是|应该是|应当是|应为|应是|分别是|是|为|等于|:|=)|答\s*:)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.])[-−–]?\s?[$¥€£￥]?\s?\d[\d,]*(?:\.\d+)?(?!\d)|[-−–]?\d[\d,]*(?:\.\d+)?")
_PYTHON = re.compile(r"(?:def|class|import|from|async)\s|@|#|\w+ *= *\S")
_OPEN, _CLOSE = r"[\s\"'“‘`*(\[【《{$:是为选]{0,9}", r"(?![A-Za-z0-9'’])"


def plain(text: str) -> str:
    """Full-width letters, digits and brackets as ASCII."""
    return unicodedata.normalize("NFKC", text)


def number(text: str, item: Item) -> str | None:
    """The number behind `####`, in a box, behind "the answer is", or else the last one."""
    text = plain(text).replace("{,}", ",")
    for part in _places(text):
        found = _numbers(part)
        if found:
            equals = _numbers(part.rpartition("=")[2]) if "=" in part else []
            return (equals or found)[0]
    found = _numbers(text)
    return found[-1] if found else None


def marked_number(text: str, item: Item) -> str | None:
    """The number behind `####`, as the examples have it; nothing else counts."""
    _, mark, rest = plain(text).rpartition("####")
    found = _numbers(rest.strip().split("\n")[0]) if mark else []
    return found[0] if found else None


def formula(text: str, item: Item) -> str | None:
    """What is boxed, or stands behind "the answer is", or in the last `$...$`, or the last number."""
    inside = boxed(text)
    if inside is not None or "\\boxed" in text:
        return inside or None
    if said := _said(text):
        dollars = re.findall(r"\$([^$]+)\$", said)
        return dollars[0].strip() if dollars else said
    dollars = re.findall(r"\$\$?([^$]+)\$\$?", text)
    if dollars:
        return str(dollars[-1]).strip()
    return number(text, item)


def between_dollars(text: str, item: Item) -> str | None:
    """What stands between the first and the last `$`, as lm-evaluation-harness has it; else everything."""
    first, last = text.find("$"), text.rfind("$")
    return (text[first + 1 : last] if first < last else text).strip() or None


def stated(text: str, item: Item) -> str | None:
    """What stands behind "the answer is", to the end of the sentence; else a last line that is no sentence."""
    said = _said(text)
    if said is None:
        lines = [line.strip() for line in text.strip().split("\n") if line.strip()]
        said = lines[-1] if lines and len(lines[-1]) <= 80 else None
    return said.strip().rstrip(".。").strip("*\"'“”").rstrip(".。").strip() or None if said else None


def letter(text: str, item: Item) -> str | None:
    """The letter that is stated to be right, begins the answer, is the only one in it, or whose text is."""
    text = _narrow(text)
    which = "[" + "".join(item.letters) + "]"
    for pattern in _statements(which):
        if found := list(re.finditer(pattern, text)):
            return str(found[-1]["letter"])
    begins = re.match(rf"[\s\"'“*(\[【]*(?P<letter>{which}){_CLOSE}(?!\s+[a-z])", text)
    if begins:
        return str(begins["letter"])
    alone = re.findall(rf"(?<![A-Za-z0-9'’])({which}){_CLOSE}(?!\s+[a-z])", text)
    if len(set(alone)) == 1:
        return str(alone[0])
    return _by_text(text, item)


def letters(text: str, item: Item) -> str | None:
    """All letters that are stated to be right, where several may be."""
    which = "[" + "".join(item.letters) + "]"
    run = rf"(?P<run>{which}(?:\s*(?:、|,|和|与|及|and|&)?\s*{which})*){_CLOSE}"
    text = _narrow(text)
    for lead in (
        rf"(?i:answers?\s*(?:is|are|:)\s*(?:options?\s*)?){_OPEN}", rf"(?:答案|选择|应选|故选|选){_OPEN}",
        r"^[\s\"'“*(\[【]*",
    ):  # fmt: skip
        if found := list(re.finditer(lead + run, text)):
            return "".join(sorted(set(re.findall(which, found[-1]["run"].replace("and", "")))))
    return letter(text, item)


def first_letter(text: str, item: Item) -> str | None:
    """The first character, if it is a letter of the choices. A reply that begins otherwise is wrong, not absent."""
    first = plain(text).strip()[:1]
    return first if first in item.letters else None


def code(text: str, item: Item) -> str | None:
    """The program: in a fence, before `[DONE]`, or the lines from the first that looks like Python."""
    text = textwrap.dedent(text.split("[DONE]")[0].rpartition("[BEGIN]")[2])
    fenced = re.findall(r"```[ \t]*(?:python3?|py)?[ \t]*\r?\n(.*?)(?:```|\Z)", text, re.DOTALL | re.IGNORECASE)
    if fenced:
        return max(fenced, key=lambda part: ("def " in part, len(part))).strip("\n") or None
    lines = text.split("\n")
    begin = next((index for index, line in enumerate(lines) if _PYTHON.match(line)), None)
    if begin is None:
        return text.strip() or None
    return _that_parses(lines[begin:]) or None


def whole(text: str, item: Item) -> str | None:
    """Everything."""
    return text.strip() or None


def first_line(text: str, item: Item) -> str | None:
    """The first line that is not empty, as LongBench has it for examples that go on."""
    return text.lstrip("\n").split("\n")[0].strip() or None


def calls(text: str, item: Item) -> str | None:
    """The calls of the functions that were offered, as a JSON list; an empty one where there are none."""
    names = [tool["name"] for tool in item.extra.get("tools", ())]
    return json.dumps(written_calls(text, names), ensure_ascii=False, sort_keys=True)


EXTRACTORS: Mapping[str, Callable[[str, Item], str | None]] = {
    "number": number, "marked number": marked_number, "formula": formula, "between dollars": between_dollars,
    "stated": stated, "letter": letter, "letters": letters, "first letter": first_letter, "code": code,
    "whole": whole, "first line": first_line, "calls": calls,
}  # fmt: skip


def _narrow(text: str) -> str:
    """Plain, with no more than two blanks in a row: whatever is written, the patterns below stay quick."""
    return re.sub(r"\s{3,}", "  ", plain(text).strip())


def _places(text: str) -> list[str]:
    """Where an answer is announced, the surest first."""
    places = []
    if "####" in text:
        places.append(text.rpartition("####")[2].strip().split("\n")[0])
    if (inside := boxed(text)) is not None:
        places.append(inside)
    if (said := _said(text)) is not None:
        places.append(said)
    return places


def _said(text: str) -> str | None:
    """What follows the last "the answer is", up to the end of the sentence."""
    found = list(_MARK.finditer(text.replace("：", ":")))
    if not found:
        return None
    rest = text[found[-1].end() :].lstrip(" *:：\t").lstrip("\n").split("\n")[0]
    return re.split(r"(?<=[^\d\s])\.(?:\s+[A-Z\"“]|\s*$)|(?<=\d)\.(?:\s+|$)|。|；", rest)[0].strip() or None


def _numbers(text: str) -> list[str]:
    return [re.sub(r"[\s,$¥€£￥]", "", found).replace("−", "-").replace("–", "-") for found in _NUMBER.findall(text)]


def _statements(which: str) -> list[str]:
    """Patterns that state which letter is right, the surest first."""
    one = rf"{_OPEN}(?P<letter>{which}){_CLOSE}"
    return [
        rf"\\boxed\s*{{\s*(?:\\(?:text|mathrm|textbf)\s*{{)?\s*\(?(?P<letter>{which}){_CLOSE}",
        rf"(?:(?i:answer|choice|option)\s*(?i:is|would be|should be|must be|:|=)\s*(?i:option|choice|letter|the)?"
        rf"|(?:答案|正确选项|正确的选项|正确答案|选项)\s*(?:就是|应该是|应该选|应当是|应为|应是|是|为|选|:)\s*(?:选项)?){one}"
        rf"(?!\s*(?:and|or|和|或)\s)(?!\s+[a-z]+\s+[a-z])",
        rf"(?<!不)(?<!不能)(?<!不应)(?:故选|应选|应该选|应当选|选择|本题选|因此选|所以选|选)\s*(?!项)(?:答案)?{one}",
        rf"(?i:\b(?:choose|pick|select|go with)\s+(?:option|choice|answer)?\s*){one}(?!\s+[a-z])",
        rf"(?:选项|(?i:option|choice)\s*)?[(\[【]?(?P<letter>(?<![A-Za-z]){which})[)\]】]?\s*(?:选项|项)?\s*"
        r"(?:是|最为|为)?\s*(?:正确|最合适|最恰当|符合题意"
        r"|(?i:is|would be)\s+(?i:the\s+)?(?i:correct|right|best|true))(?![不错])",
        rf"(?i:answer|答案){one}",
    ]


def _by_text(text: str, item: Item) -> str | None:
    """The letter of the one choice whose text stands in the answer."""
    folded = text.casefold()
    inside = [choice for choice in item.choices if choice.strip() and plain(choice).strip().casefold() in folded]
    # "10" stands in "100": of choices that contain each other the longest counts.
    inside = [one for one in inside if not any(one != other and one in other for other in inside)]
    return item.letters[item.choices.index(inside[0])] if len(inside) == 1 else None


def _that_parses(lines: list[str]) -> str:
    """The lines without those at the end that are no Python; all of them where none would be left."""
    for end in range(len(lines), 0, -1):
        try:
            ast.parse("\n".join(lines[:end]))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return "\n".join(lines[:end]).strip("\n")
    return "\n".join(lines).strip("\n")
