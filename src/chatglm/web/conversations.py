"""Conversations on disk: for each a file that any chat of this package reads, and one with what the page has told."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chatglm.chat.saved import SavedConversation, load_file
from chatglm.errors import ConversationError
from chatglm.web.told import Told, told_by
from chatglm.web.view import Step

MOST = 200  # conversations of one owner
MOST_BYTES = 32 * 1024 * 1024  # of what a page has told; of more, the pictures are left out
_TITLE = 60  # characters
_ID = re.compile(r"[0-9a-f]{16}")
_KINDS = {"title": str, "mode": str, "changed": float}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Card:
    """A conversation in a list.

    Attributes:
        id: its name on disk.
        title: the beginning of its first message.
        mode: which of the page's modes it was held in.
        changed: when, in Unix seconds.
    """

    id: str
    title: str
    mode: str
    changed: float


class Conversations:
    """Those of one owner.

    Args:
        root: the folder of all owners; it is readable by nobody else.
        owner: a login or a cookie, of which only a hash becomes a name on disk. Nothing is written there before a
            conversation is saved: a stranger's request leaves nothing behind.
    """

    def __init__(self, root: Path, owner: str) -> None:
        self.folder = root / hashlib.sha256(owner.encode()).hexdigest()[:32]
        self._lock = threading.RLock()
        self._aside = ""

    def mended(self) -> str:
        """Where a damaged list was put aside, and another one made; told once. Empty: none was."""
        aside, self._aside = self._aside, ""
        return aside

    def cards(self) -> list[Card]:
        """The last changed first."""
        cards = [Card(name, **about) for name, about in self._index().items()]
        return sorted(cards, key=lambda card: -card.changed)

    def new_id(self) -> str:
        """A name for another one.

        Raises:
            ConversationError: there are too many.
        """
        count = len(self._index())
        if count >= MOST:
            raise ConversationError(f"there are {count} conversations, which is the most there may be; delete some")
        return secrets.token_hex(8)

    def save(self, name: str, session: Any, mode: str, told: Sequence[Told]) -> None:
        """Writes a session's history and what was told of it.

        Raises:
            ConversationError: the disk is full, or the folder gone.
        """
        new_folder(self.folder)
        session.save(self._path(name))
        text = json.dumps([turn.to_json() for turn in told], ensure_ascii=False)
        if len(text) > MOST_BYTES:
            text = json.dumps([turn.to_json(pictures=False) for turn in told], ensure_ascii=False)
        _write(self._path(name, ".told.json"), text)
        self._note(Card(name, _title(told), mode, time.time()))

    def load(self, name: str) -> tuple[Card, SavedConversation, list[Told]]:
        """A conversation.

        Raises:
            ConversationError: there is none of that name, or it is damaged.
        """
        about = self._index().get(name) if _ID.fullmatch(name) else None
        if about is None:
            raise ConversationError(f"there is no conversation {name!r:.40}; it may have been deleted")
        saved = load_file(self._path(name))
        return Card(name, **about), saved, self._told(name) or told_by(saved.messages)

    def path(self, name: str) -> Path:
        """The file of a conversation, for taking it along.

        Raises:
            ConversationError: there is none of that name.
        """
        if not _ID.fullmatch(name) or not self._path(name).is_file():
            raise ConversationError(f"there is no conversation {name!r:.40}; it may have been deleted")
        return self._path(name)

    def delete(self, name: str) -> None:
        """Removes a conversation; one that is not there is no error."""
        if not _ID.fullmatch(name):
            return
        with self._lock:
            index = self._index()
            if index.pop(name, None) is not None:
                _write(self.folder / "index.json", json.dumps(index, ensure_ascii=False))
        for ending in (".json", ".told.json"):
            self._path(name, ending).unlink(missing_ok=True)

    def _path(self, name: str, ending: str = ".json") -> Path:
        return self.folder / f"{name}{ending}"

    def _index(self) -> dict[str, dict[str, Any]]:
        path = self.folder / "index.json"
        with self._lock:
            try:
                return _read_index(path.read_text(encoding="utf-8-sig"))
            except FileNotFoundError:
                return {}
            except OSError as error:
                raise ConversationError(f"the list {path} cannot be read: {error.strerror}") from None
            except ValueError as error:
                return self._mend(path, error)

    def _mend(self, path: Path, why: ValueError) -> dict[str, dict[str, Any]]:
        """Puts a damaged list aside and makes another one of the conversations that lie there."""
        aside = path.with_name(f"index.damaged-{secrets.token_hex(4)}.json")
        index = {file.stem: self._about(file) for file in self.folder.glob("*.json") if _ID.fullmatch(file.stem)}
        try:
            path.rename(aside)
        except OSError as error:
            raise ConversationError(f"{path} is damaged ({why}), and cannot be renamed: {error.strerror}") from None
        _log.warning("%s was damaged (%s); it is kept as %s, and another one was made", path, why, aside.name)
        self._aside = aside.name
        _write(path, json.dumps(index, ensure_ascii=False))
        return index

    def _about(self, file: Path) -> dict[str, Any]:
        """What a list says of a conversation, of which only the files are there."""
        try:
            told = self._told(file.stem) or told_by(load_file(file).messages)
        except ConversationError:
            told = []  # whoever opens it is told
        steps = [part for turn in told for part in turn.view.parts if isinstance(part, Step)]
        mode = "code" if any(step.code for step in steps) else "tool" if steps else "chat"
        return {"title": _title(told) if told else file.stem, "mode": mode, "changed": file.stat().st_mtime}

    def _note(self, card: Card) -> None:
        with self._lock:
            index = self._index()
            about = asdict(card)
            index[about.pop("id")] = about
            _write(self.folder / "index.json", json.dumps(index, ensure_ascii=False))

    def _told(self, name: str) -> list[Told]:
        try:
            items = json.loads(self._path(name, ".told.json").read_text(encoding="utf-8-sig"))
            return [Told.from_json(item) for item in items]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise ConversationError(f"what was told in the conversation {name} cannot be read: {error}") from None


def _title(told: Sequence[Told]) -> str:
    return " ".join(told[0].text.split())[:_TITLE] or ", ".join(told[0].files)[:_TITLE]


def _read_index(text: str) -> dict[str, dict[str, Any]]:
    """What a list says of each conversation.

    Raises:
        ValueError: it is no list.
    """
    index = json.loads(text)
    if not isinstance(index, dict):
        raise ValueError(f"it holds {type(index).__name__} and not an object")
    for name, about in index.items():
        kinds = {key: type(value) for key, value in about.items()} if isinstance(about, dict) else {}
        if not _ID.fullmatch(name) or kinds not in (_KINDS, {**_KINDS, "changed": int}):
            raise ValueError(f"{name!r:.40} is {about!r:.100}; it must hold a title, a mode and when it was changed")
    return index


def new_folder(folder: Path) -> None:
    """Makes a folder that nobody else can read, if there is none.

    Raises:
        ConversationError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConversationError(f"{folder} cannot be made: {error.strerror or error}") from None


def default_folder() -> Path:
    """Where conversations are kept: under XDG_DATA_HOME, by default ~/.local/share."""
    base = os.environ.get("XDG_DATA_HOME", "")
    data = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "share"
    return data / "chatglm" / "conversations"


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".", delete=False) as file:
            temporary = file.name
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise ConversationError(f"{path} cannot be written: {error.strerror or error}") from None
