"""Which of several replicas answers a request: one that has computed its beginning, unless others are much less busy.

Plain values, no network: the cluster routes by it, and `benchmarks/cluster.py` simulates with it.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Mapping, Sequence, Set
from hashlib import blake2b
from typing import Any

BLOCK = 256  # bytes of a request's text that are compared as one
SESSION_BLOCKS = 16  # what a session's name counts for
WEIGHT = 8.0  # blocks of a prompt that may be computed again to save waiting behind one more request
_HOMED = re.compile(r"/v1/agent/conversations/conv_(\w+)-")
CAPACITY = 16_384  # blocks that are taken to be in the cache of a replica


class Router:
    """What is known of the replicas: the beginnings that each has seen.

    A replica costs the blocks of the prompt that it does not know, and `weight` blocks for every request it is at. The
    cheapest is asked; of equals the one that knows least, so that conversations spread.

    Args:
        weight: see above.
        capacity: blocks remembered of a replica; the ones unused longest are forgotten, as its cache does.
    """

    def __init__(self, *, weight: float = WEIGHT, capacity: int = CAPACITY) -> None:
        self.weight, self.capacity = weight, capacity
        self._known: dict[str, OrderedDict[int, None]] = defaultdict(OrderedDict)
        self._knowers: dict[int, set[str]] = defaultdict(set)

    def ranked(self, blocks: Sequence[int], load: Mapping[str, int]) -> list[str]:
        """The replicas, the one to ask first.

        Args:
            blocks: of the request, see `blocks_of`.
            load: requests that each replica is at.
        """
        matched = self.matched(blocks)
        return sorted(load, key=lambda replica: self._cost(replica, load[replica], matched.get(replica, 0)))

    def first(self, blocks: Sequence[int], load: Mapping[str, int]) -> str:
        """`ranked(...)[0]`, at a cost that hardly grows with the number of replicas."""
        found = []
        for depth, knowing in [(0, load.keys()), *self._levels(blocks)]:
            here = knowing & load.keys()
            least = min(map(load.__getitem__, here), default=None)
            found += [self._cost(name, load[name], depth) for name in here if load[name] == least]
        return min(found)[-1]

    def _cost(self, replica: str, load: int, matched: int) -> tuple[float, int, str]:
        seen = self._known.get(replica)
        return self.weight * load - matched, len(seen) if seen else 0, replica

    def matched(self, blocks: Sequence[int]) -> Mapping[str, int]:
        """How many of the first blocks each replica knows; replicas that know none are left out."""
        return {name: depth for depth, knowing in self._levels(blocks) for name in knowing}

    def _levels(self, blocks: Sequence[int]) -> list[tuple[int, Set[str]]]:
        """Depths, and who knows so many of the first blocks; who knows more is told again."""
        levels: list[tuple[int, Set[str]]] = []
        for depth, block in enumerate(blocks, 1):
            here: Set[str] = self._knowers.get(block, frozenset())
            if levels:
                here = levels[-1][1] & here
                if len(here) == len(levels[-1][1]):
                    levels.pop()
            if not here:
                break
            levels.append((depth, here))
        return levels

    def note(self, blocks: Sequence[int], replica: str) -> None:
        """The replica computes these blocks now."""
        known = self._known[replica]
        for block in reversed(blocks):  # of a beginning the end is forgotten first
            known[block] = None
            known.move_to_end(block)
            self._knowers[block].add(replica)
        while len(known) > self.capacity:
            self._unlink(known.popitem(last=False)[0], replica)

    def keep_only(self, replicas: Collection[str]) -> None:
        """Forget the replicas that are there no more."""
        for gone in [replica for replica in self._known if replica not in replicas]:
            for block in self._known.pop(gone):
                self._unlink(block, gone)

    def _unlink(self, block: int, replica: str) -> None:
        knowers = self._knowers[block]
        knowers.discard(replica)
        if not knowers:
            del self._knowers[block]


def blocks_of(text: bytes, session: str = "") -> list[int]:
    """A number for each whole block of a text, which tells the block and all before it.

    Args:
        text: what is to be computed, see `text_of`.
        session: requests of one session are kept together.
    """
    state = blake2b(session.encode("utf-8", "replace"), digest_size=8)
    made = []
    if session:
        first = int.from_bytes(state.digest(), "big")
        made += [first ^ index for index in range(SESSION_BLOCKS)]
    for start in range(0, len(text) - BLOCK + 1, BLOCK):
        state.update(text[start : start + BLOCK])
        made.append(int.from_bytes(state.digest(), "big"))
    return made


def home_of(path: str) -> str | None:
    """The replica that holds the conversation a path names, see `conversations.Conversation`."""
    found = _HOMED.match(path)
    return found[1] if found else None


def text_of(body: bytes) -> tuple[bytes, str]:
    """What a request has computed, in the order of its prompt, and its session; nothing of what cannot be read.

    The session is `prompt_cache_key`, OpenAI's field for the purpose.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return b"", ""
    if not isinstance(asked, dict):
        return b"", ""
    said: list[Any] = [asked.get(name) for name in ("system", "instructions", "tools", "functions")]
    for name in ("messages", "input", "prompt"):
        value = asked.get(name)
        said += value if isinstance(value, list) else [value]
    session = asked.get("prompt_cache_key")
    text = "".join(json.dumps(part, ensure_ascii=False) for part in said if part is not None)
    return text.encode("utf-8", "replace"), session if isinstance(session, str) else ""
