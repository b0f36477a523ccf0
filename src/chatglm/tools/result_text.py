"""What a tool returned or raised, as text the model can read."""

import dataclasses
import enum
import json
import os
import re
from typing import Any

from chatglm.chat.message import FILES_FOLDER
from chatglm.errors import ChatGLMError, ToolError

MAX_MESSAGE = 400  # characters of an exception's message

_QUOTED_PATH = re.compile(
    r"""(?P<quote>['"])(?:file://)?(?:[A-Za-z]:[\\/]|[\\/~])(?:[^'"\n]*[\\/])?(?P<name>[^'"\n]*)(?P=quote)"""
)
_BARE_PATH = re.compile(
    r"(?:file://|(?<![\w/:.\\]))(?:[A-Za-z]:\\|~?/|\\\\)(?:[^\s'\"/\\:]+[\\/])+(?P<name>[^\s'\"/\\:,;]*)"
)
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")


def result_text(value: Any) -> str:
    """A result as text: texts as they are, everything else as JSON.

    Raises:
        ToolError: it is neither.
    """
    if value is None:
        return "(no result)"
    if isinstance(value, (bytes, bytearray, memoryview)):
        try:
            text = bytes(value).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ToolError(f"it returned {len(bytes(value))} bytes that are no text") from None
    elif isinstance(value, str):
        text = str.__str__(value)
    else:
        text = _json_text(value)
    return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair has no bytes


def _json_text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=_plain)
    except ToolError:
        raise
    except RecursionError:
        raise ToolError("it returned a value that is nested too deeply or contains itself") from None
    except Exception as error:  # keys that are no names, and whatever a foreign object raises when it is asked
        raise ToolError(f"it returned a value that cannot be written as JSON: {told(error)}") from None


def _plain(value: Any) -> Any:
    """The JSON form of what `json` does not know."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "replace")
    for method, arguments in (("model_dump", {"mode": "json"}), ("isoformat", {}), ("tolist", {})):
        found = getattr(value, method, None)
        if callable(found) and not isinstance(value, type):
            return found(**arguments)
    if type(value).__module__ in ("decimal", "fractions", "uuid", "pathlib", "ipaddress", "datetime"):
        return str(value)
    raise ToolError(f"it returned a {type(value).__name__}, which is neither text nor JSON")


def told(error: BaseException) -> str:
    """An exception in one line, without the folders and addresses of this machine.

    The package's own errors are written for the reader and stand without their class. What a tool says with `ToolError`
    is meant for the model and is not touched.
    """
    try:
        message = " ".join(str(error)[: 8 * MAX_MESSAGE].split())
    except Exception:  # a foreign `__str__`
        message = ""
    if not isinstance(error, ToolError):
        message = without_paths(message)
    if len(message) > MAX_MESSAGE:
        message = message[: MAX_MESSAGE - 3] + "..."
    if isinstance(error, ChatGLMError) and message:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def without_paths(text: str) -> str:
    """Paths shortened to the name of the file; those of the sandbox, which the model knows, stay."""
    for folder in (os.path.expanduser("~"), os.getcwd()):
        if len(folder) > 1:
            text = text.replace(folder + os.sep, "~/")
    text = _QUOTED_PATH.sub(lambda match: _shortened(match, f"{match['quote']}{match['name']}{match['quote']}"), text)
    text = _BARE_PATH.sub(lambda match: _shortened(match, match["name"] or "a folder"), text)
    return _ADDRESS.sub("", text)


def _shortened(match: re.Match[str], name: str) -> str:
    return match.group() if match.group().lstrip("'\"").startswith(f"{FILES_FOLDER}/") else name


def cut(text: str, longest: int) -> tuple[str, bool]:
    """The text, or its beginning with a line that says so."""
    if len(text) <= longest:
        return text, False
    return f"{text[:longest]}\n[cut: the first {longest} of {len(text)} characters]", True
