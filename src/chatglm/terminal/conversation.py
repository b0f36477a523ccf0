"""The conversation of one chat: its messages, and taking back a turn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from chatglm.chat.message import Message, Role
from chatglm.chat.saved import SavedConversation, save_file


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

    @classmethod
    def of(cls, saved: SavedConversation, vocabulary: str) -> tuple[Conversation, bool]:
        """A saved conversation for a model with this vocabulary, and whether its token ids could be kept."""
        messages, same = saved.open(vocabulary)
        return cls(messages), same

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
        save_file(path, self._messages, vocabulary)
