"""Which file names cross the border between host and guest."""

import os
import re
from typing import Any

from chatglm.errors import SandboxError

from .config import WORK

# Control characters, what reorders or hides text, lone surrogates, and what a shell, a web page or Windows would read
# as more than a name. Everything else, Chinese and spaces among it, is a name.
_REFUSED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f"
    "\\\\<>\"'&|`$;:*?]"
)
_MAX_BYTES = 200


def check_name(name: Any, folders: bool = False) -> str:
    """The path of a file below /mnt/data (which may stand before it); with `folders` it may lie in one.

    Raises:
        SandboxError: it is not a plain name.
    """
    if not isinstance(name, str):
        raise SandboxError(f"file name is a {type(name).__name__}; it must be a text")
    plain = name.removeprefix(f"{WORK}/")
    parts = plain.split("/") if folders else [plain]
    for part in parts:
        reason = _objection(part)
        if reason:
            raise SandboxError(
                f"file name {name[:_MAX_BYTES]!r} is refused: it {reason}; use a plain name like data.csv"
            )
    return plain


def acceptable(path: str) -> bool:
    """Whether a path found in a guest may be named to others."""
    try:
        check_name(path, folders=True)
    except SandboxError:
        return False
    return True


def _objection(part: str) -> str | None:
    if part in ("", ".", ".."):
        return "is empty or names a folder"
    if "/" in part:
        return "holds a folder"
    if part.startswith(("-", "~")) or part != part.strip():
        return "begins or ends with a character that programs misread"
    if _REFUSED.search(part):
        return "holds a character that is not allowed"
    return "is too long" if len(os.fsencode(part)) > _MAX_BYTES else None
