"""The file a conversation is kept in: JSON, one message on each line, answers with the ids they were made of."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chatglm.chat.message import Message, Role
from chatglm.chat.template import validate
from chatglm.errors import ConversationError, PromptError

FORMAT = "chatglm-conversation"
VERSION = 1


def vocabulary_of(tokenizer: Any) -> str:
    """The fingerprint of a tokenizer of this package: equal for two exactly when their token ids mean the same."""
    content = Path(tokenizer.vocab_file).read_bytes()
    return hashlib.sha256(tokenizer.version.encode() + b"\n" + content).hexdigest()


def save_file(path: Path, messages: Iterable[Message], vocabulary: str) -> None:
    """Write a conversation to `path`, whole or not at all.

    Args:
        path: a new file, or one that holds a saved conversation.
        messages: the conversation.
        vocabulary: the fingerprint of the vocabulary that the token ids belong to.

    Raises:
        ConversationError: the file holds something else, or cannot be written.
    """
    if path.exists() and not path.is_file():
        raise ConversationError(f"{path} was not overwritten: it is no regular file")
    try:
        if path.exists():
            load_file(path)
    except ConversationError as error:
        raise ConversationError(f"{path} was not overwritten: {error}") from None
    _write(path, _document(messages, vocabulary))


def _document(messages: Iterable[Message], vocabulary: str) -> str:
    head = json.dumps({"format": FORMAT, "version": VERSION, "vocabulary": vocabulary}).removesuffix("}")
    items = (json.dumps(message.to_dict(with_ids=True), ensure_ascii=False) for message in messages)
    return head + ', "messages": [\n' + ",\n".join(items) + "\n]}\n"


@dataclass(frozen=True)
class SavedConversation:
    """What a conversation file holds."""

    messages: tuple[Message, ...]
    vocabulary: str

    def open(self, vocabulary: str) -> tuple[tuple[Message, ...], bool]:
        """The messages for a model with this vocabulary, and whether its token ids could be kept.

        Ids of another vocabulary would be other words: without them the text is encoded anew.
        """
        if vocabulary == self.vocabulary or all(message.ids is None for message in self.messages):
            return self.messages, True
        return tuple(replace(message, ids=None) for message in self.messages), False


def load_file(path: Path) -> SavedConversation:
    """Read a file written by `save_file`.

    Raises:
        ConversationError: it cannot be read, is no such file, or breaks the rules of a conversation.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConversationError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise ConversationError(f"{path} is not JSON; it must be a file that a chat or a session has saved") from None
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
