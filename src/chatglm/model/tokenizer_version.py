"""Whether a folder holds a ChatGLM3 or a ChatGLM2 tokenizer: the official files do not say it in one place."""

import json
from pathlib import Path
from typing import Any

from chatglm.chat.message import Role
from chatglm.model.files import read_json
from chatglm.model.plain_config import release_in_name

VERSIONS = ("chatglm3", "chatglm2")


def find_version(folder: Path, name: str) -> str:
    """What the files of a folder say, in this order: `_name_or_path` of `config.json`; the role tokens or the name of a
    model in `tokenizer_config.json`; role tokens in `tokenization_chatglm.py`, read as text and never run; the name the
    tokenizer is loaded by. If nothing says it, "chatglm3", with a logged warning.

    Raises:
        CheckpointError: a file is no JSON object; names it.
    """
    found = (
        release_in_name(str(_read_json(folder / "config.json").get("_name_or_path") or ""))
        or _in_tokenizer_config(folder / "tokenizer_config.json")
        or _in_code(folder / "tokenization_chatglm.py")
        or release_in_name(name)
    )
    if found is None:
        from transformers.utils import logging  # costs half a second, and is here what people know

        logger = logging.get_logger(__name__)
        logger.warning(f"nothing in {str(folder)!r} says whether it is ChatGLM3 or ChatGLM2: taken as ChatGLM3")
    return found or "chatglm3"


def _in_text(text: object) -> str | None:
    lowered = str(text or "").lower()
    return next((version for version in VERSIONS if version in lowered), None)


def _in_tokenizer_config(path: Path) -> str | None:
    text = json.dumps(_read_json(path))
    return "chatglm3" if Role.ASSISTANT.marker in text else _in_text(text)


def _in_code(path: Path) -> str | None:
    if not path.is_file():
        return None
    known = Role.ASSISTANT.marker in path.read_text(encoding="utf-8-sig", errors="replace")
    return "chatglm3" if known else "chatglm2"


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
