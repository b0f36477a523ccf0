"""From a row of a file to an item: the official shapes of every task, and the plain one `{id, question, answer, ...}`.

A reader raises `Malformed`, which says what is wrong; whoever reads the file names the row and counts it.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from chatglm.evaluate.item import LETTERS, Item

Values = Mapping[str, Any]


class Malformed(Exception):
    """A row is no item of its task."""


def problem(row: Values, item_id: str, subject: str) -> Item:
    """A question with one answer as text: GSM8K, MATH, BBH."""
    question = _text(row, "question", "problem", "input")
    worked = str(row.get("solution") or row.get("rationale") or "")
    answer = row.get("answer", row.get("target", row.get("expected_answer")))
    if answer is None and worked:
        answer = boxed(worked)
    gold = "" if answer is None else str(answer).strip()
    if "####" in gold:  # GSM8K's own files: the solution, with marks of a calculator, and the number behind ####
        worked, _, gold = re.sub(r"<<.*?>>", "", gold).rpartition("####")
        worked, gold = worked.strip(), gold.strip().replace(",", "")
    if not gold:
        raise Malformed("it has no answer")
    return Item(item_id, _subject(row, subject), question, (gold,), worked=worked)


def choice(row: Values, item_id: str, subject: str) -> Item:
    """A question with choices: MMLU, C-Eval, CMMLU, AGIEval."""
    choices = _choices(row)
    passage = str(row.get("passage") or "")
    worked = str(row.get("explanation") or row.get("solution") or "")
    question = _text(row, "question")
    if not choices:
        answer = str(row.get("answer_text") or row.get("answer") or "").strip()
        return Item(item_id, _subject(row, subject), question, (answer,) if answer else (), passage=passage)
    if not 2 <= len(choices) <= len(LETTERS):
        raise Malformed(f"it has {len(choices)} choices; it must have 2 to {len(LETTERS)}")
    gold = _gold(row.get("answer") if row.get("answer") is not None else row.get("label"), len(choices))
    return Item(item_id, _subject(row, subject), question, gold, choices, passage, worked=worked)


def program(row: Values, item_id: str, subject: str) -> Item:
    """A program to be written, and its tests: MBPP."""
    tests = row.get("tests", row.get("test_list"))
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) and test for test in tests):
        raise Malformed("its tests are no list of statements")
    setup = row.get("setup", row.get("test_setup_code")) or ""
    reference = row.get("reference", row.get("code")) or ""
    return Item(
        item_id, str(row.get("split") or subject), _text(row, "prompt", "text"), ("passes",),
        tests=tuple(tests), setup=str(setup), worked=str(reference),
    )  # fmt: skip


def long_text(row: Values, item_id: str, subject: str) -> Item:
    """A question about a long text: LongBench."""
    answers = row.get("answers")
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
        raise Malformed("its answers are no list of texts")
    if not isinstance(row.get("context"), str) or not row["context"]:
        raise Malformed("it has no context")
    classes = row.get("all_classes") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise Malformed("its all_classes are no list of texts")
    question = row.get("input")
    if not isinstance(question, str):
        raise Malformed("it has no input")
    subject = str(row.get("dataset") or subject)
    return Item(item_id, subject, question, tuple(answers), passage=row["context"], extra={"classes": tuple(classes)})


def calls(row: Values, item_id: str, subject: str) -> Item:
    """A wish and functions to fulfil it by: BFCL. The subject is the name in front of the number of the id."""
    messages, functions = row.get("messages", row.get("question")), row.get("tools", row.get("function"))
    if isinstance(messages, list) and len(messages) == 1 and isinstance(messages[0], list):
        messages = messages[0]  # its own files: a list of turns
    if not isinstance(messages, list) or not all(isinstance(one, Mapping) for one in messages):
        raise Malformed("it has no messages, or those of several turns")
    if len(messages) != 1 or messages[0].get("role") != "user":
        raise Malformed("it has more than a message of the user")
    if not isinstance(functions, list) or not functions or not all(map(_is_function, functions)):
        raise Malformed("its tools are no list of functions with name and parameters")
    answers = row.get("answers", row.get("ground_truth"))
    part = re.sub(r"_\d+(-\d+)*$", "", item_id.rpartition("/")[2])
    if answers is None and not part.endswith("irrelevance"):
        raise Malformed("it has no answers")
    if not isinstance(answers, (list, type(None))) or not all(map(_is_call, answers or ())):
        raise Malformed("its answers are no list of functions with their arguments")
    tools = [
        {**one, "name": one["name"].replace(".", "_"), "parameters": _schema(one["parameters"])} for one in functions
    ]
    gold = json.dumps(answers or [], ensure_ascii=False)
    return Item(item_id, part, _text(messages[0], "content"), (gold,), extra={"tools": tools})


def _is_function(value: Any) -> bool:
    return (
        isinstance(value, Mapping) and isinstance(value.get("name"), str) and isinstance(value.get("parameters"), dict)
    )


def _is_call(value: Any) -> bool:
    """A wanted call: `{function: {argument: [values]}}`."""
    return (
        isinstance(value, Mapping)
        and len(value) == 1
        and all(isinstance(arguments, Mapping) for arguments in value.values())
        and all(isinstance(one, list) for arguments in value.values() for one in arguments.values())
    )


_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}


def _schema(value: Any, properties: bool = False) -> Any:
    """A description of arguments with the types of JSON Schema. Under `properties` the keys are names."""
    if isinstance(value, list):
        return [_schema(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    found = {name: _schema(one, name == "properties" and not properties) for name, one in value.items()}
    kind = found.get("type")
    if not properties and isinstance(kind, str) and kind in _JSON_TYPES:
        found["type"] = _JSON_TYPES[kind]
        if found["type"] is None:
            del found["type"]
    return found


READERS: Mapping[str, Callable[[Values, str, str], Item]] = {
    "problem": problem, "choice": choice, "program": program, "long": long_text, "calls": calls,
}  # fmt: skip


def boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}` or `\fbox{...}` of a text; None where there is none."""
    found = list(re.finditer(r"\\(?:boxed|fbox)\s*", text))
    if not found:
        return None
    begin = found[-1].end()
    if text[begin : begin + 1] != "{":
        return text[begin:].split("$")[0].split()[0] if text[begin:].split() else None
    depth = 0
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[begin + 1 : end].strip()
    return None


def _text(row: Values, *names: str) -> str:
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value
    raise Malformed(f"it has no {names[0]}")


def _subject(row: Values, subject: str) -> str:
    found = row.get("subject") or row.get("type")
    return found if isinstance(found, str) else subject


def _choices(row: Values) -> tuple[str, ...]:
    listed = row.get("choices", row.get("options"))
    if listed is None:
        lettered = {name.upper(): value for name, value in row.items() if len(name) == 1}
        listed = [lettered[letter] for letter in LETTERS if lettered.get(letter) not in (None, "")]
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        raise Malformed("its choices are no list of texts")
    # AGIEval's own files write the letters into the choices.
    marks = [text.startswith(f"({letter})") for letter, text in zip(LETTERS, listed, strict=False)]
    return tuple(text[3:].strip() if all(marks) else text for text in listed)


def _gold(answer: Any, count: int) -> tuple[str, ...]:
    """The letters that are right, of whatever an answer may be: a letter, letters, a number from 0, a list of these."""
    if answer is None or answer in ("", []):
        return ()
    if isinstance(answer, str):
        letters = tuple(letter for letter in answer.strip().upper() if letter not in "(),. ")
    else:
        numbers = answer if isinstance(answer, list) else [answer]
        if all(isinstance(number, str) for number in numbers):
            return _gold("".join(numbers), count)
        whole = all(isinstance(number, int) and 0 <= number < len(LETTERS) for number in numbers)
        letters = tuple(LETTERS[number] for number in numbers) if whole else ()
    if not letters or not set(letters) <= set(LETTERS[:count]):
        raise Malformed(f"its answer is {answer!r:.40}; it must be one of the {count} choices")
    return letters
