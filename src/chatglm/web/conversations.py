"""Conversations on disk: for each a file that any chat of this package reads, and one with what the page has told."""

from __future__ import annotations

import hashlib
import json
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

MOST = 200  # conversations of one owner
MOST_BYTES = 32 * 1024 * 1024  # of what a page has told; of more, the pictures are left out
_TITLE = 60  # characters
_ID = re.compile(r"[0-9a-f]{16}")


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
        owner: a login or a cookie, of which only a hash becomes a name on disk.

    Raises:
        ConversationError: the folder cannot be made.
    """

    def __init__(self, root: Path, owner: str) -> None:
        self.folder = root / hashlib.sha256(owner.encode()).hexdigest()[:32]
        self._lock = threading.Lock()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConversationError(f"{self.folder} cannot be made: {error.strerror or error}") from None

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
        session.save(self._path(name))
        text = json.dumps([turn.to_json() for turn in told], ensure_ascii=False)
        if len(text) > MOST_BYTES:
            text = json.dumps([turn.to_json(pictures=False) for turn in told], ensure_ascii=False)
        _write(self._path(name, ".told.json"), text)
        title = " ".join(told[0].text.split())[:_TITLE] or ", ".join(told[0].files)[:_TITLE]
        self._note(Card(name, title, mode, time.time()))

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
        try:
            index: Any = json.loads((self.folder / "index.json").read_text(encoding="utf-8-sig"))
            return dict(index)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConversationError(f"the list {self.folder / 'index.json'} cannot be read: {error}") from None

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
