"""Masks: which tokens constraints allow at the rows of a step, as packed bits, and how bits become numbers.

Legend: n rows, V tokens, W = ceil(V / 32) numbers of packed bits.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import groupby

import torch
from torch import Tensor

from chatglm.engine.constraint import Constraint, Told
from chatglm.engine.rows import Row


def masks_of(rows: Sequence[Row], vocabulary: int) -> tuple[Tensor, dict[int, str]]:
    """What the constraints of `rows` allow, int32 [n, W] on the CPU, and for rows without an answer why there is none.

    The rows of a request follow each other, each with one more draft than the last.
    """
    masks = torch.zeros(len(rows), -(-vocabulary // 32), dtype=torch.int32)
    errors: dict[int, str] = {}
    of_requests = [list(places) for _, places in groupby(range(len(rows)), lambda place: id(rows[place].request))]
    for places in of_requests:
        with _noted(errors, places):
            _told(rows[places[0]]).follow(rows[places[0]].context)
    well = [places for places in of_requests if places[0] not in errors]
    _fill([(_told(rows[places[0]]).constraint, places[0]) for places in well], masks, errors)
    for places in well:
        if len(places) > 1 and places[0] not in errors:
            _fill_along(rows, places, masks, errors)
    return masks, errors


def _told(row: Row) -> Told:
    assert row.request.told is not None
    return row.request.told


def _fill(asked: Sequence[tuple[Constraint, int]], masks: Tensor, errors: dict[int, str]) -> None:
    """Ask each constraint for its row, those of a type together where the type can do that."""
    of_types: dict[type, list[tuple[Constraint, int]]] = {}
    for constraint, place in asked:
        of_types.setdefault(type(constraint), []).append((constraint, place))
    for kind, group in of_types.items():
        fill_many, failed = getattr(kind, "fill_many", None), dict[int, str]()
        if fill_many is not None:
            with _noted(failed, [0]):
                fill_many(group, masks)
        if fill_many is None or failed:
            for constraint, place in group:
                with _noted(errors, [place]):
                    constraint.fill(masks[place].zero_())


def _fill_along(rows: Sequence[Row], places: Sequence[int], masks: Tensor, errors: dict[int, str]) -> None:
    """Ask a constraint behind each draft too; not behind one it does not allow, or a stop token: nobody gets there."""
    told = _told(rows[places[0]])
    known = told.length
    for place in places[1:]:
        row = rows[place]
        draft = row.context[len(row.context) - 1]
        words = masks[place - 1]
        if draft in row.request.stop_ids or draft >= 32 * len(words) or not int(words[draft // 32]) >> draft % 32 & 1:
            break
        with _noted(errors, [place]):
            told.follow(row.context)
            told.constraint.fill(masks[place])
        if place in errors:
            break
    with _noted(errors, places):
        told.rewind(known)


@contextmanager
def _noted(errors: dict[int, str], places: Sequence[int]) -> Iterator[None]:
    """A failure is written down for those it belongs to, and goes no further."""
    try:
        yield
    except Exception as error:
        errors |= dict.fromkeys(places, f"the constraint failed: {error!r}")


@lru_cache(maxsize=8)
def bits_of_bytes(device: torch.device) -> Tensor:
    """The bits of each byte as float32 [256, 8], the lowest first."""
    numbers = torch.arange(256, device=device)
    return (numbers[:, None] >> torch.arange(8, device=device) & 1).float()


def spread(packed: Tensor, tables: Tensor, out: Tensor) -> Tensor:
    """Packed bits uint8 [n, 4 W] -> `out` float32 [n, V], a part of rows of 32 W: the numbers that `tables` [n, 256, 8]
    have for each byte of a row. Bit by bit it takes three times as long."""
    which = packed.int() + 256 * torch.arange(len(packed), dtype=torch.int32, device=packed.device)[:, None]
    whole = out.as_strided((which.numel(), 8), (8, 1))
    torch.index_select(tables.reshape(-1, 8), 0, which.view(-1), out=whole)
    return out
