"""Which part of a long conversation the model reads: the system message and the latest whole turns."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chatglm.chat.message import Message, Role
from chatglm.errors import ContextFullError

ROOM = 256  # tokens an answer should find, where the context is large enough
SHARE = 0.75  # of the context is left after a cut, so that the next turns need none and find their prefix cached


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads: token ids, and how many turns of the conversation stand before them, left out."""

    ids: list[int]
    left_out: int


class Window:
    """Cuts a conversation by whole turns when it no longer fits. What was left out once stays out.

    Args:
        tokenizer: renders conversations.
        context_length: tokens that prompt and answer have together.
        may_cut: whether turns may be left out; otherwise what does not fit is an error.
    """

    def __init__(self, tokenizer: Any, context_length: int, *, may_cut: bool = True) -> None:
        self.tokenizer, self.context_length, self.may_cut = tokenizer, context_length, may_cut
        self.left_out = 0  # turns at the beginning that prompts so far were made without
        self._counted: tuple[list[Message], Prompt] | None = None  # the last conversation `count` was asked about

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """The prompt for the conversation; `take` it where it is used.

        Raises:
            ContextFullError: even the last turn alone leaves no room for an answer.
        """
        turns = _beginnings(messages)
        prompt = self._render(messages, turns, self._left_out(turns))
        if self.may_cut and len(prompt.ids) + min(ROOM, self.context_length // 8) > self.context_length:
            prompt = self._cut(messages, turns, prompt.left_out)
        tokens, limit = len(prompt.ids), self.context_length
        if tokens >= limit:
            what = "its last turn alone has" if prompt.left_out else "the conversation has"
            message = f"{what} {tokens} tokens and there is room for {limit}, the answer included; "
            raise ContextFullError(message + "shorten it, or allow more", tokens, limit)
        return prompt

    def take(self, prompt: Prompt) -> int:
        """Remembers what a prompt leaves out; returns how many turns more than the one before."""
        more, self.left_out = prompt.left_out - self.left_out, prompt.left_out
        return max(0, more)

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of a conversation without what is left out, up to where the next answer begins."""
        asked = list(messages)
        if self._counted is None or self._counted[0] != asked or self._counted[1].left_out != self.left_out:
            turns = _beginnings(asked)
            self._counted = asked, self._render(asked, turns, self._left_out(turns))
        return len(self._counted[1].ids)

    def _left_out(self, turns: Sequence[int]) -> int:
        return min(self.left_out, max(0, len(turns) - 1))

    def _cut(self, messages: Sequence[Message], turns: Sequence[int], left_out: int) -> Prompt:
        """Leaves out as few turns as bring the prompt down to its share of the context; never the last one."""

        def fits(left_out: int) -> bool:
            return len(self._render(messages, turns, left_out).ids) <= self.context_length * SHARE

        candidates = range(left_out, max(left_out, len(turns) - 1))
        return self._render(messages, turns, candidates.start + bisect_left(candidates, True, key=fits))

    def _render(self, messages: Sequence[Message], turns: Sequence[int], left_out: int) -> Prompt:
        head = [message for message in messages[:1] if message.role is Role.SYSTEM]
        kept = messages[turns[left_out] :] if left_out else messages[len(head) :]
        return Prompt(self.tokenizer.render([*head, *kept]).ids, left_out)


def _beginnings(messages: Sequence[Message]) -> list[int]:
    """Where each turn begins: at the user's messages."""
    return [index for index, message in enumerate(messages) if message.role is Role.USER]
