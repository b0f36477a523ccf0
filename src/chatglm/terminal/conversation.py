"""The conversation of one chat: its messages, taking back a turn, and the file it is saved in."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chatglm.chat.message import Message, Role
from chatglm.chat.template import validate
from chatglm.errors import ChatGLMError, PromptError

FORMAT = "chatglm-conversation"
VERSION = 1


class ConversationError(ChatGLMError, ValueError):
    """A conversation file cannot be read or written."""


class Conversation:
    """Messages in order: perhaps a system message, then questions, each with the messages that answered it."""

    def __init__(self, messages: Iterable[Message] = ()) -> None:
        self._messages = list(messages)

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def messages(self) -> tuple[Message, ...]:
        """All messages, the system message first."""
        return tuple(self._messages)

    @property
    def system(self) -> str:
        """The text of the system message; empty when there is none."""
        return self._messages[0].content if self._has_system() else ""

    def set_system(self, text: str) -> None:
        """Set, change or (with an empty text) remove the system message; tools it offers stay with it."""
        if not self._has_system():
            self._messages[:0] = [Message(Role.SYSTEM, text)] if text else []
        elif text or self._messages[0].tools is not None:
            self._messages[0] = replace(self._messages[0], content=text)
        else:
            del self._messages[0]

    def ask(self, text: str) -> None:
        """Add a message of the user."""
        self._messages.append(Message(Role.USER, text))

    def answer(self, messages: Iterable[Message]) -> None:
        """Add what the model said: one message for each segment of its turn."""
        self._messages += messages

    def take_back(self) -> tuple[str, list[Message]] | None:
        """Remove the last message of the user and everything after it; return its text and the rest.

        None, and no change, when the user has said nothing.
        """
        asked = [index for index, message in enumerate(self._messages) if message.role is Role.USER]
        if not asked:
            return None
        question, *rest = self._messages[asked[-1] :]
        del self._messages[asked[-1] :]
        return question.content, rest

    def clear(self) -> None:
        """Forget everything but the system message."""
        del self._messages[1 if self._has_system() else 0 :]

    def _has_system(self) -> bool:
        return bool(self._messages) and self._messages[0].role is Role.SYSTEM

    # files

    def save(self, path: Path, vocabulary: str) -> None:
        """Write the conversation to `path`, whole or not at all.

        Args:
            path: a new file, or one that holds a saved conversation.
            vocabulary: the fingerprint of the vocabulary that the token ids belong to.

        Raises:
            ConversationError: the file holds something else, or cannot be written.
        """
        try:
            if path.exists():
                load_file(path)
        except ConversationError as error:
            raise ConversationError(f"{path} was not overwritten: {error}") from None
        _write(path, self._document(vocabulary))

    def _document(self, vocabulary: str) -> str:
        """JSON with one message on each line, for people and for diff."""
        head = json.dumps({"format": FORMAT, "version": VERSION, "vocabulary": vocabulary}).removesuffix("}")
        items = (json.dumps(message.to_dict(with_ids=True), ensure_ascii=False) for message in self._messages)
        return head + ', "messages": [\n' + ",\n".join(items) + "\n]}\n"


@dataclass(frozen=True)
class SavedConversation:
    """What a conversation file holds."""

    messages: tuple[Message, ...]
    vocabulary: str

    def open(self, vocabulary: str) -> tuple[Conversation, bool]:
        """The conversation for a model with this vocabulary, and whether its token ids could be kept.

        Ids of another vocabulary would be other words: without them the text is encoded anew.
        """
        if vocabulary == self.vocabulary or all(message.ids is None for message in self.messages):
            return Conversation(self.messages), True
        return Conversation(replace(message, ids=None) for message in self.messages), False


def load_file(path: Path) -> SavedConversation:
    """Read a file written by `Conversation.save`.

    Raises:
        ConversationError: it cannot be read, is no such file, or breaks the rules of a conversation.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConversationError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise ConversationError(f"{path} is not JSON; it must be a file written by /save") from None
    _check_head(path, document)
    try:
        messages = tuple(Message.from_dict(item) for item in document["messages"])
        _check_ids(messages)
        if any(message.role is not Role.SYSTEM for message in messages):
            validate(messages)
    except (PromptError, TypeError) as error:
        raise ConversationError(f"{path} holds no valid conversation: {error}") from None
    return SavedConversation(messages, document["vocabulary"])


def _check_head(path: Path, document: Any) -> None:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConversationError(f'{path} is not a saved conversation; it must have the key "format": "{FORMAT}"')
    if document.get("version") != VERSION:
        seen = document.get("version")
        raise ConversationError(f"{path} has format version {seen!r}; this program reads version {VERSION}")
    for key, kind in (("messages", list), ("vocabulary", str)):
        if not isinstance(document.get(key), kind):
            raise ConversationError(f"{path} has no valid {key!r}: it must be a {kind.__name__}")


def _check_ids(messages: Iterable[Message]) -> None:
    for message in messages:
        for token in message.ids or ():
            if type(token) is not int or token < 0:
                raise PromptError(f"a token id is {token!r}; it must be a whole number from 0 up")


def _write(path: Path, text: str) -> None:
    """Through a temporary file beside it, so that a full disk or a crash leaves the old file as it was."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = file.name
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            os.unlink(temporary)
        raise ConversationError(f"{path} cannot be written: {error.strerror or error}") from None
