"""Row: one position that a token is chosen for, and the tokens before it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import overload

from chatglm.engine.request import Request


@dataclass(frozen=True, slots=True)
class Row:
    """One position to sample: the request, and the tokens before the position (drafts that lead to it included)."""

    request: Request
    context: Sequence[int]

    @property
    def num_output(self) -> int:
        return len(self.context) - len(self.request.prompt_ids)

    @property
    def output(self) -> Sequence[int]:
        """The tokens of the answer before the position."""
        return self.context[len(self.request.prompt_ids) :]


class Context(Sequence[int]):
    """The known tokens of a request and some of its drafts after them, not copied; only slices are lists."""

    def __init__(self, token_ids: list[int], draft_ids: list[int], num_drafts: int) -> None:
        self.token_ids, self.draft_ids, self.num_drafts = token_ids, draft_ids, num_drafts

    def __len__(self) -> int:
        return len(self.token_ids) + self.num_drafts

    def __iter__(self) -> Iterator[int]:
        return chain(self.token_ids, islice(self.draft_ids, self.num_drafts))

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        known = len(self.token_ids)
        if isinstance(index, int):
            position = range(len(self))[index]
            return self.token_ids[position] if position < known else self.draft_ids[position - known]
        start, stop, step = index.indices(len(self))
        if step != 1:
            return [self[position] for position in range(start, stop, step)]
        return self.token_ids[start:stop] + self.draft_ids[max(0, start - known) : max(0, stop - known)]
