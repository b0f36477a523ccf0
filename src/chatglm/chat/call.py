"""Calls as the model writes them: `tool_call(name=literal, ...)` or a JSON object, fenced or not. Read, never run.

Reading goes through `ast` and accepts literals only. What cannot be read becomes `ToolCall.error`; nothing here raises
on what a model wrote. Written calls are read back to equal arguments.
"""

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from chatglm.chat.message import ToolCall
from chatglm.errors import PromptError

_MAX_SIGNS = 5000  # deeper chains of operators could exhaust the C stack of Python 3.10's parser
_OPEN_FENCE = re.compile(r"^[ \t]*```(?:[ \t]*(?:[\w+.-]+[ \t]*)?\n|(?:python|py|json)\b[ \t]*)?", re.MULTILINE)
_CLOSE_FENCE = re.compile(r"\n[ \t]*```[ \t]*(?=\n|$)")
_NAMES = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_ARGUMENT_NAME = re.compile(r"[^\W\d][\w.-]{0,63}")

# Comments and strings are passed over, so that what looks like an argument inside them is left alone. A string without
# an end is taken to the end of its line, which keeps the scan linear.
_TOKEN = r"""(?P<comment>\#[^\n]*)
    | (?P<string>(?P<prefix>[a-zA-Z]{0,2})(?:'''(?:\\.|[^\\])*?(?:'''|\\?\Z) | \"\"\"(?:\\.|[^\\])*?(?:\"\"\"|\\?\Z)
                              | '(?:\\.|[^\\'\n])*(?:'|(?=\n)|\\?\Z) | "(?:\\.|[^\\"\n])*(?:"|(?=\n)|\\?\Z)))
    | (?P<argument>[^\W\d][\w.-]{0,63})(?=\s*=(?!=))
    | (?P<number>\.?\d(?:[eE][-+]|[\w.])*)
    | (?P<word>\w+)
    | (?P<sign>[-+~.*/%@&|^<>!])"""
_TOKENS = re.compile(_TOKEN, re.VERBOSE | re.DOTALL)
# The same where strings may go on in the next line, which models write and Python does not read.
_TOKENS_OVER_LINES = re.compile(
    _TOKEN.replace(r"[^\\'\n]", r"[^\\']").replace(r'[^\\"\n]', r'[^\\"]').replace(r"(?=\n)|", ""),
    re.VERBOSE | re.DOTALL,
)
_DIGITS = r"\d+(?:_\d+)*"
_NUMBER = re.compile(
    rf"(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][-+]?{_DIGITS})?[jJ]?"
    r"|0[xX][\da-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+"
)
_COMPUTED = frozenset("b br rb f fr rf t tr rt".split())  # prefixes of bytes, and of texts with code inside
_ESCAPE = re.compile(r"\\([4-7][0-7]{2}|.)", re.DOTALL)


class _Unreadable(Exception):
    """Why a call could not be read; becomes `ToolCall.error`."""


def parse_tool_call(text: str, name: str = "") -> ToolCall:
    """Reads the call in an assistant segment's content. Never raises, never evaluates.

    Accepted: `tool_call(...)` or the tool's own name with keyword arguments, or an object `{...}`; fences with or
    without a language, unclosed, or none; text after the fence; Python and JSON constants; nested lists, tuples and
    dicts; negative numbers; argument names that are Python keywords. An error: positional or repeated arguments,
    anything that would have to be computed, values JSON has no form for.

    Args:
        text: the content, without the metadata line.
        name: the tool's name, for the result and as an accepted function name.
    """
    error = "there is no call"
    for number, body in enumerate(_bodies(text)):
        try:
            return ToolCall(name, _read(body, name), text)
        except _Unreadable as problem:
            error = error if number else str(problem)  # the first guess at where the call ends is the likeliest
    return ToolCall(name, None, text, error)


def format_tool_call(arguments: Mapping[str, Any]) -> str:
    """Writes arguments as the model was trained to: a fenced `tool_call(key='value', ...)`.

    Raises:
        PromptError: an argument name or a value that cannot be written so that it reads back equal.
    """
    for key in arguments:
        if not isinstance(key, str) or not _ARGUMENT_NAME.fullmatch(key):
            raise PromptError(f"the argument name {key!r} cannot be written in a call; it must be a plain name")
    try:
        written = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a value that contains itself
        raise PromptError(f"the arguments cannot be written in a call: {error}") from None
    call = f"```python\ntool_call({written})\n```"
    if parse_tool_call(call).arguments != dict(arguments):
        raise PromptError(f"the arguments {arguments!r} cannot be written in a call; they must be JSON values")
    return call


def extract_code(text: str) -> str:
    """The code in an interpreter segment: the first fenced block, or all of the text where nothing is fenced."""
    start = _OPEN_FENCE.search(text)
    if start is None:
        return text
    end = _CLOSE_FENCE.search(text, start.end() - 1)
    body = text[start.end() : max(start.end(), end.start())] if end else text[start.end() :]
    return body if end else body.rstrip().removesuffix("```").rstrip("\n")


def _bodies(text: str) -> Iterator[str]:
    """Where the call may be: up to the first closing fence, the last one, or the end."""
    stripped = text.strip()
    start = _OPEN_FENCE.match(stripped)
    if start is None:
        yield stripped
        return
    ends = [match.start() for match in _CLOSE_FENCE.finditer(stripped, start.end() - 1)]
    inline = stripped.rfind("```")
    candidates = [*ends[:1], *ends[-1:], *([inline] if inline >= start.end() else []), len(stripped)]
    for end in dict.fromkeys(candidates):
        yield stripped[start.end() : max(end, start.end())]


def _read(body: str, name: str) -> dict[str, Any]:
    if body.lstrip().startswith("{"):
        try:
            return _checked_dict(_json_value(json.loads(body, object_pairs_hook=_unique, strict=False)))
        except (ValueError, RecursionError):
            pass  # not JSON: perhaps a Python dict
    try:
        return _read_python(body, name, _TOKENS)
    except _Unreadable:
        if "\n" not in body:
            raise
        with suppress(_Unreadable):
            return _read_python(body, name, _TOKENS_OVER_LINES)
        raise


def _read_python(body: str, name: str, tokens: re.Pattern[str]) -> dict[str, Any]:
    prepared, argument_names = _prepare(body, tokens)
    try:
        return _arguments(ast.parse(prepared.strip(), mode="eval").body, name, argument_names)
    except SyntaxError as error:
        raise _Unreadable(f"not a call: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError, Warning) as error:
        raise _Unreadable(f"not a call: {type(error).__name__}: {error}") from None


def _prepare(body: str, tokens: re.Pattern[str]) -> tuple[str, list[str]]:
    """Numbers the argument names, so that `from=` and `max-count=` parse, and doubles the backslash of escapes that
    Python does not know, which it would read the same but warn about. Nor does it get numbers like `1if`, for the same
    reason: a warning would be printed where people chat."""
    names: list[str] = []
    signs = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal signs
        kind, found = match.lastgroup, match.group()
        signs += kind == "sign"
        if kind == "argument":
            names.append(found)
            return f"_{len(names) - 1}_"
        if kind == "string":
            prefix = match.group("prefix").lower()
            if prefix in _COMPUTED:
                raise _Unreadable(f"{found[:60]!r} is not a literal value; nothing is computed")
            if prefix == "r":
                return found
            if tokens is not _TOKENS and not _is_triple(match):
                found = found.replace("\\\n", "").replace("\r", "\\r").replace("\n", "\\n")
            return _ESCAPE.sub(_known_escape, found)
        if kind == "number" and not _NUMBER.fullmatch(found):
            raise _Unreadable(f"not a call: {found[:60]!r} is no number")
        return found

    prepared = tokens.sub(replace, body)
    if signs > _MAX_SIGNS:
        raise _Unreadable(f"not a call: {signs} operators; only literal values are accepted")
    return prepared, names


def _is_triple(match: re.Match[str]) -> bool:
    return match.group()[len(match.group("prefix")) :].startswith(("'''", '"""'))


def _known_escape(match: re.Match[str]) -> str:
    known = match.group(1) in tuple("\\'\"abfnrtvxuUN\n01234567")
    return match.group() if known else "\\" + match.group()


def _arguments(tree: ast.expr, name: str, argument_names: list[str]) -> dict[str, Any]:
    if isinstance(tree, ast.Dict):
        return _checked_dict(_literal(tree))
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        raise _Unreadable("not a call: it must be tool_call(name=value, ...)")
    if tree.func.id not in ("tool_call", name):
        raise _Unreadable(f"not a call of this tool: {tree.func.id}(...); it must be tool_call(name=value, ...)")
    if tree.args:
        raise _Unreadable("positional arguments; every argument must have a name")
    pairs: list[tuple[str, Any]] = []
    for keyword in tree.keywords:
        if keyword.arg is None:
            raise _Unreadable("** in a call; every argument must be written out")
        pairs.append((argument_names[int(keyword.arg.strip("_"))], _literal(keyword.value)))
    return _checked_dict(_unique(pairs))


def _literal(node: ast.expr) -> Any:
    """The value of a literal. Tuples stay tuples; sets, bytes, complex numbers and anything computed are refused."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, bool, type(None))):
        return _finite(node.value)
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_literal(item) for item in node.elts)
    if isinstance(node, ast.Dict):
        return _unique([(_key(key), _literal(value)) for key, value in zip(node.keys, node.values, strict=True)])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _literal(node.operand)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return -value if isinstance(node.op, ast.USub) else value
    raise _Unreadable(f"{_spelling(node)} is not a literal value; nothing is computed")


def _key(node: ast.expr | None) -> Any:
    value = None if node is None else _literal(node)
    if node is None or not isinstance(value, (str, int, float, bool, type(None))):
        raise _Unreadable("a dict key is no plain value")
    return value


def _spelling(node: ast.expr) -> str:
    try:
        text = ast.unparse(node)
    except (RecursionError, ValueError):
        text = type(node).__name__
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise _Unreadable(f"the number {value} is not finite")
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise _Unreadable("a text with a lone surrogate") from None
    return value


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _Unreadable(f"the argument {key!r} is given twice")
        result[key] = value
    return result


def _checked_dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _Unreadable("the arguments are no object with names")
    return value


def _json_value(value: Any) -> Any:
    """The value itself; JSON text can spell numbers and characters that no other JSON reader would take back."""
    if isinstance(value, dict):
        return {_finite(key): _json_value(item) for key, item in value.items()}
    return [_json_value(item) for item in value] if isinstance(value, list) else _finite(value)
