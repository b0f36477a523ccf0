"""Which part of a long conversation the model reads: the system message and the latest whole turns."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from chatglm.chat.message import Message, Role
from chatglm.errors import PromptError

ROOM = 256  # tokens an answer should find, where the context is large enough
SHARE = 0.75  # of the context is left after a cut, so that the next turns need none and find their prefix cached


class Window:
    """Cuts a conversation by whole turns when it no longer fits. What was left out once stays out.

    Args:
        tokenizer: renders conversations.
        context_length: tokens that prompt and answer have together.
        may_cut: whether turns may be left out; otherwise what does not fit is an error.
    """

    def __init__(self, tokenizer: Any, context_length: int, *, may_cut: bool = True) -> None:
        self.tokenizer, self.context_length, self.may_cut = tokenizer, context_length, may_cut
        self.left_out = 0  # turns at the beginning

    def prompt(self, messages: Sequence[Message]) -> tuple[list[int], int]:
        """The prompt for the conversation, and how many more turns had to be left out for it.

        Raises:
            PromptError: even the last turn alone leaves no room for an answer.
        """
        turns = _beginnings(messages)
        before = self.left_out = min(self.left_out, max(0, len(turns) - 1))
        ids = self._render(messages, turns)
        if self.may_cut and len(ids) + min(ROOM, self.context_length // 8) > self.context_length:
            ids = self._cut(messages, turns)
        if len(ids) >= self.context_length:
            what = "its last turn alone has" if self.left_out else "the conversation has"
            raise PromptError(
                f"{what} {len(ids)} tokens and there is room for {self.context_length}, the answer included; "
                "shorten it, or allow more"
            )
        return ids, self.left_out - before

    def _cut(self, messages: Sequence[Message], turns: Sequence[int]) -> list[int]:
        """Leaves out as few turns as bring the prompt down to its share of the context; never the last one."""

        def fits(left_out: int) -> bool:
            self.left_out = left_out
            return len(self._render(messages, turns)) <= self.context_length * SHARE

        candidates = range(self.left_out, max(self.left_out, len(turns) - 1))
        self.left_out = candidates.start + bisect_left(candidates, True, key=fits)
        return self._render(messages, turns)

    def _render(self, messages: Sequence[Message], turns: Sequence[int]) -> list[int]:
        head = [message for message in messages[:1] if message.role is Role.SYSTEM]
        kept = list(messages[turns[self.left_out] :]) if self.left_out else list(messages[len(head) :])
        ids: list[int] = self.tokenizer.render([*head, *kept]).ids
        return ids


def _beginnings(messages: Sequence[Message]) -> list[int]:
    """Where each turn begins: at the user's messages."""
    return [index for index, message in enumerate(messages) if message.role is Role.USER]
