"""What the settings of requests do to their scores: gathered for all rows of a step, then done to them together.

Gathering needs the texts and no scores, so it goes on while the network still runs on a GPU. The order is that of
transformers' `generate()`: repetition penalty; other penalties, biases and bans; the hook; and last the constraint,
which nothing can break. On a processor the native kernels go through the first two, with the same operations and so to
the same bits as torch.

Legend: n rows, V tokens, W = ceil(V / 32) numbers of packed bits.
"""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from chatglm import native
from chatglm.engine.drawing import Room
from chatglm.engine.masks import bits_of_bytes, masks_of, spread
from chatglm.engine.request import SamplingParams
from chatglm.engine.rows import Row
from chatglm.engine.token_counts import TokenCounts
from chatglm.engine.warping import moved, on_device


def edits_scores(params: SamplingParams, num_output: int) -> bool:
    """Whether the scores of a request's next token have to be changed, for which its text must be known."""
    return bool(
        params.hook is not None
        or params.constraint is not None
        or params.repetition_penalty != 1
        or params.presence_penalty
        or params.frequency_penalty
        or params.logit_bias
        or params.bad_words
        or params.bad_words_ids
        or num_output < params.min_tokens
    )


class Edits:
    """The changes to the scores of some rows.

    A request whose hook or constraint fails ends by itself: `errors` says why, its row becomes NaN.

    Args:
        rows: those of one request follow each other, each with one more draft than the last.
        vocabulary: V.
        device: of the scores.
    """

    def __init__(self, rows: Sequence[Row], vocabulary: int, device: torch.device) -> None:
        self.rows, self.vocabulary = rows, vocabulary
        self.errors: dict[int, str] = {}
        self._added: dict[int, bytes] = {}  # of a row: int64 ids of the tokens that are added to
        self._values: dict[int, bytes] = {}  # float32
        self._seen: dict[int, bytes] = {}  # packed bits of W numbers
        self._by_kernels = device.type == "cpu" and native.available()
        self._hooks: dict[int, Row] = {}
        self._constrained: dict[int, int] = {}  # rows in the masks
        edited = [
            index
            for index, row in enumerate(rows)
            if edits_scores(row.request.params, row.num_output) and not row.request.finished
        ]
        try:
            for index in edited:
                self._gather(index, rows[index])
        finally:
            for row in (rows[index] for index in edited):
                if row.request.counts is not None:
                    row.request.counts.rewind(len(row.request.token_ids))
        if self._constrained:
            constrained = list(self._constrained)
            self._masks, errors = masks_of([rows[index] for index in constrained], vocabulary)
            self.errors |= {constrained[place]: why for place, why in errors.items()}

    def __bool__(self) -> bool:
        return bool(self._added or self._seen or self._hooks or self._constrained)

    def apply(self, scores: Tensor, first: int, room: Room) -> None:
        """Change `scores` float32 [n, V] in place; they are those of the rows from `first` on.
        `room` is memory to work in."""
        here = range(first, first + len(scores))
        if self._by_kernels:
            native.edit_scores(scores, [self._edit(index) for index in here])
        else:
            self._penalize(scores, first, room, [index for index in here if index in self._seen])
            self._add(scores, [index for index in here if index in self._added], first)
        for index in self._hooks.keys() & here:
            self._call_hook(index, scores[index - first])
        self._mask(scores, [index for index in here if index in self._constrained], first, room)
        for index in self.errors.keys() & here:
            scores[index - first].fill_(torch.nan)

    def _gather(self, index: int, row: Row) -> None:
        params, request = row.request.params, row.request
        if request.counts is None:
            request.counts = _counts_of(row, self.vocabulary)
        request.counts.follow(row.context)
        banned = array("q", (token for token in banned_now(row) if token < self.vocabulary))
        if banned or request.counts.ids:
            values = array("f", [-torch.inf]) * len(banned)
            self._added[index] = request.counts.ids.tobytes() + banned.tobytes()
            self._values[index] = request.counts.values.tobytes() + values.tobytes()
        if request.counts.seen:
            self._seen[index] = bytes(request.counts.seen)
        if params.hook is not None:
            self._hooks[index] = row
        if params.constraint is not None:
            self._constrained[index] = len(self._constrained)

    def _edit(self, index: int) -> native.Edit:
        ids = self._added.get(index, b"")
        penalty = self.rows[index].request.params.repetition_penalty
        return native.Edit(self._seen.get(index), ids, self._values.get(index), len(ids) // 8, penalty)

    def _penalize(self, scores: Tensor, first: int, room: Room, which: Sequence[int]) -> None:
        """The repetition penalty: s / p for a score above 0, s * p below. Whole rows, at a cost that a longer text does
        not change; where nothing was seen p is 1."""
        if not which:
            return
        packed = torch.frombuffer(bytearray(b"".join(self._seen[index] for index in which)), dtype=torch.uint8)
        packed = moved(packed.view(len(which), -1), scores.device)
        penalties = [self.rows[index].request.params.repetition_penalty for index in which]
        penalty = on_device(penalties, torch.float32, scores.device)
        tables = penalty[:, None, None] * bits_of_bytes(scores.device) + (1 - bits_of_bytes(scores.device))
        with some_rows(scores, [index - first for index in which]) as part:
            factors, product = room(part.device, 2, len(part), 8 * packed.shape[1])[..., : part.shape[1]]
            spread(packed, tables, factors)
            torch.mul(part, factors, out=product)
            torch.where(part > 0, part.div_(factors), product, out=part)

    def _add(self, scores: Tensor, which: Sequence[int], first: int) -> None:
        """One scatter. A token that comes twice is banned, so that the order does not matter."""
        if not which:
            return
        lengths = torch.tensor([len(self._added[index]) // 8 for index in which])
        starts = torch.tensor([(index - first) * scores.shape[1] for index in which]).repeat_interleave(lengths)
        ids = torch.frombuffer(bytearray(b"".join(self._added[index] for index in which)), dtype=torch.long)
        values = torch.frombuffer(bytearray(b"".join(self._values[index] for index in which)), dtype=torch.float32)
        scores.view(-1).index_add_(0, moved(ids + starts, scores.device), moved(values, scores.device))

    def _call_hook(self, index: int, scores: Tensor) -> None:
        row = self._hooks[index]
        assert row.request.params.hook is not None
        try:
            row.request.params.hook(row.output, scores)
        except Exception as error:
            self.errors[index] = f"the logits hook failed: {error!r}"

    def _mask(self, scores: Tensor, which: Sequence[int], first: int, room: Room) -> None:
        if not which:
            return
        start = self._constrained[which[0]]
        packed = moved(self._masks[start : start + len(which)].view(torch.uint8), scores.device)
        table = torch.log(bits_of_bytes(scores.device)).expand(len(which), -1, -1)  # 0 where allowed, else -inf
        with some_rows(scores, [index - first for index in which]) as part:
            banned = room(part.device, len(part), 8 * packed.shape[1])[:, : part.shape[1]]
            part.add_(spread(packed, table, banned))


def _counts_of(row: Row, vocabulary: int) -> TokenCounts:
    request, params = row.request, row.request.params
    banned = {word[0] for word in params.bad_words_ids if len(word) == 1}
    return TokenCounts(
        request.prompt_ids,
        params.logit_bias,
        banned if request.bad_words is None else banned | request.bad_words.always,
        (params.presence_penalty, params.frequency_penalty),
        vocabulary,
        seen=params.repetition_penalty != 1,
    )


def banned_now(row: Row) -> list[int]:
    """Tokens a position must not take because of what lies before it: ends of bad words that have begun, stop tokens
    before `min_tokens`."""
    params, context = row.request.params, row.context
    banned = [
        word[-1]
        for word in params.bad_words_ids
        if 1 < len(word) <= len(context) + 1 and list(context[len(context) + 1 - len(word) :]) == list(word[:-1])
    ]
    if row.request.bad_words is not None:
        banned.extend(row.request.bad_words.begun(row.output))
    if row.num_output < params.min_tokens:
        banned.extend(row.request.stop_ids)
    return banned


@contextmanager
def some_rows(scores: Tensor, which: Sequence[int]) -> Iterator[Tensor]:
    """Some rows of [n, V] to be changed in place: the scores themselves where it is all of them."""
    if len(which) == len(scores):
        yield scores
        return
    index = on_device(which, torch.long, scores.device)
    part = scores.index_select(0, index)
    yield part
    scores.index_copy_(0, index, part)
