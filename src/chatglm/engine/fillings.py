"""The table of paged attentions, open to others: who computes attention over the cache, and for whom it is suited.

Legend: N new tokens of a step, H query heads, G key/value heads, D channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chatglm.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from chatglm.engine.cache import KVCache, PagedBatch

# (query [N, H, D], key [N, G, D], value [N, G, D], layer, batch, scaling) -> [N, H, D]
Attend = Callable[["Tensor", "Tensor", "Tensor", int, "PagedBatch", float], "Tensor"]
# (cache, whether there is a P-Tuning prefix) -> reason or None
Unsuited = Callable[["KVCache", bool], "str | None"]


@dataclass(frozen=True, slots=True)
class Filling:
    """One way to compute attention over the cache.

    Args:
        name: what `EngineConfig.attention` calls it.
        attend: all sequences of a step in one call. It writes the new keys and values into the cache first (at
            `batch.slots`); then each query sees its own request's keys up to its own.
        decode: the same for steps of one token a request with fixed shapes (`batch.static`), reading the tensors of
            the batch only, never its `sequences`; None: has no such form.
        unsuited: says why a cache cannot be handled, None where it can.
        rank: with `attention="auto"` the highest suited one is taken.
    """

    name: str
    attend: Attend
    decode: Attend | None = None
    unsuited: Unsuited | None = None
    rank: int = 0


_table: dict[str, Filling] = {}


def register_filling(
    name: str,
    attend: Attend,
    *,
    decode: Attend | None = None,
    unsuited: Unsuited | None = None,
    rank: int = 0,
) -> None:
    """Add a paged attention, or replace the one of that name; see `Filling`. Engines made later may choose it."""
    if not name.isidentifier() or name == "auto":
        raise RequestError(f"a filling cannot be named {name!r}; it must be an identifier other than 'auto'")
    _table[name] = Filling(name, attend, decode, unsuited, rank)


def names() -> list[str]:
    """What `EngineConfig.attention` may be, beside "auto"."""
    return sorted(_table)


def choose(name: str, cache: "KVCache", with_prefix: bool = False) -> Filling:
    """The filling of that name, or the best one for a cache.

    Raises:
        RequestError: there is none of that name, or it is not suited, with the reason.
    """
    if name == "auto":
        suited = [filling for filling in _table.values() if _reason(filling, cache, with_prefix) is None]
        return max(suited, key=lambda filling: filling.rank)
    if name not in _table:
        raise RequestError(f"attention is {name!r}; it must be auto or one of {', '.join(names())}")
    reason = _reason(_table[name], cache, with_prefix)
    if reason is not None:
        raise RequestError(f"attention {name!r} cannot be used here: {reason}")
    return _table[name]


def _reason(filling: Filling, cache: "KVCache", with_prefix: bool) -> str | None:
    return filling.unsuited(cache, with_prefix) if filling.unsuited is not None else None
