"""Who owns which part of the key/value cache, and which parts can be used again. Pure Python, no tensors.

The cache is cut into blocks of `block_size` tokens. A request's blocks are listed in order in its block table. A block
whose tokens are all computed gets a key: the key of the block before it and its own token ids, so equal keys mean equal
text from the start. A block nobody uses keeps its content and its key until its memory is needed, oldest use first;
a new request with the same beginning takes it from there.

The key *is* the token ids (compared by value, not only by hash), so a collision of hashes cannot give a request the
keys and values of somebody else's text.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise

from chatglm.engine.gaps import Gaps
from chatglm.engine.request import Request

_PLACES = 32  # gaps to look at for a place to grow


@dataclass(frozen=True, slots=True)
class BlockKey:
    """The text up to the end of a block: the key before it (or the adapter's name, at the start) and its tokens."""

    before: "BlockKey | str | None"
    token_ids: tuple[int, ...]
    beginning: str | None = field(init=False)  # the adapter's name all the way back
    digest: int = field(init=False)

    def __post_init__(self) -> None:
        before = self.before
        object.__setattr__(self, "beginning", before.beginning if isinstance(before, BlockKey) else before)
        object.__setattr__(self, "digest", hash((before, self.token_ids)))

    def __hash__(self) -> int:
        return self.digest

    def __eq__(self, other: object) -> bool:
        """Compares the token ids all the way back; a loop, since a chain can be longer than Python's stack."""
        mine: BlockKey | str | None = self
        theirs: object = other
        while isinstance(mine, BlockKey) and isinstance(theirs, BlockKey):
            if mine is theirs:
                return True
            if mine.digest != theirs.digest or mine.token_ids != theirs.token_ids:
                return False
            mine, theirs = mine.before, theirs.before
        return mine == theirs if not isinstance(mine, BlockKey) and not isinstance(theirs, BlockKey) else False


@dataclass(frozen=True, slots=True)
class Match:
    """Blocks that hold the beginning of a text, and the key of the first one that would be next and is not there."""

    blocks: list[int]
    next_key: BlockKey | None


class BlockManager:
    """Hands out blocks, counts their users, remembers their keys.

    Args:
        num_blocks: blocks in the pool.
        block_size: tokens per block.
        prefix_cache: whether blocks are found again by their text.
    """

    def __init__(self, num_blocks: int, block_size: int, prefix_cache: bool = True) -> None:
        self.num_blocks, self.block_size, self.prefix_cache = num_blocks, block_size, prefix_cache
        self.users = [0] * num_blocks
        self.keys: list[BlockKey | None] = [None] * num_blocks
        self.found: dict[BlockKey, int] = {}
        # Unused blocks, the next one to hand out first: those without content, then by last use.
        self.empty: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self.reusable: OrderedDict[int, None] = OrderedDict()
        self.gaps = Gaps(num_blocks)  # the empty ones again, as stretches of neighbours
        self.hopes: dict[Request, range] = {}  # where running requests would like to grow
        self._spoken_for: list[tuple[int, int]] = []  # the hopes again, in order; none overlap
        self.queried_tokens = 0
        self.hit_tokens = 0
        self.evictions = 0

    @property
    def num_free(self) -> int:
        return len(self.empty) + len(self.reusable)

    @property
    def num_tokens(self) -> int:
        """Tokens the whole pool can hold."""
        return self.num_blocks * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def match(self, request: Request) -> Match:
        """What holds the beginning of a request's tokens. Nothing changes by looking.

        At least one token is always left to run: without it there would be no logits to sample from. So are those whose
        states are wanted.
        """
        blocks: list[int] = []
        if not self.prefix_cache:
            return Match(blocks, None)
        before: BlockKey | str | None = request.adapter
        for index in range(request.most_cached // self.block_size):
            key = BlockKey(before, self._tokens_of(request, index))
            block = self.found.get(key)
            if block is None:
                return Match(blocks, key)
            blocks.append(block)
            before = self.keys[block]  # the stored object: the next comparison then ends at once
        return Match(blocks, None)

    def missing(self, match: Match, num_tokens: int) -> int:
        """How many of the free blocks it takes to hold `num_tokens` tokens that begin with a match."""
        unused = sum(1 for block in match.blocks if self.users[block] == 0)  # free as well, until they are used
        return self.blocks_for(num_tokens) - len(match.blocks) + unused

    def admit(self, request: Request, match: Match) -> None:
        """Give a request that has no blocks those of its beginning that are in the cache."""
        assert not request.block_table
        for block in match.blocks:
            self._use(block)
        request.block_table.extend(match.blocks)
        request.num_computed = len(match.blocks) * self.block_size

    def count_hits(self, request: Request) -> None:
        """Note how much of a request that has just been admitted was found; once for each, for the hit rate."""
        self.queried_tokens += len(request.token_ids)
        self.hit_tokens += request.num_computed

    def extend(self, request: Request, num_tokens: int) -> bool:
        """Make room for the first `num_tokens` tokens of a request; False, and nothing taken, if there is none."""
        missing = self.blocks_for(num_tokens) - len(request.block_table)
        if missing > self.num_free:
            return False
        if missing > 0 and request not in self.hopes:
            self._hope(request, self._place_for(request))
        for _ in range(missing):
            request.block_table.append(self._take(self._next_hope(request)))
        return True

    def room_for(self, request: Request) -> int:
        """How many tokens a request may have altogether before somebody else would have to give blocks up."""
        return (len(request.block_table) + self.num_free) * self.block_size

    def commit(self, request: Request) -> None:
        """Give keys to the request's blocks whose tokens have all been computed."""
        if not self.prefix_cache:
            return
        full = request.num_computed // self.block_size
        if full == 0 or self.keys[request.block_table[full - 1]] is not None:
            return
        start = full
        while start > 0 and self.keys[request.block_table[start - 1]] is None:
            start -= 1
        key: BlockKey | str | None = self.keys[request.block_table[start - 1]] if start else request.adapter
        for index in range(start, full):
            block = request.block_table[index]
            key = BlockKey(key, self._tokens_of(request, index))
            first = self.found.setdefault(key, block)  # two requests may have computed the same text
            key = self.keys[block] = key if first == block else self.keys[first]

    def shrink(self, request: Request, num_tokens: int) -> None:
        """Take back blocks beyond the first `num_tokens` tokens (drafts that were refused)."""
        while len(request.block_table) > self.blocks_for(num_tokens):
            self._release(request.block_table.pop())
        request.num_laid_out = min(request.num_laid_out, len(request.block_table))

    def free(self, request: Request) -> None:
        """Take all blocks back; their content stays findable until the memory is needed."""
        for block in reversed(request.block_table):  # a beginning is worth more than an end: evict ends first
            self._release(block)
        request.block_table.clear()
        request.num_computed = request.num_laid_out = 0
        hope = self.hopes.pop(request, None)
        if hope:
            del self._spoken_for[bisect_left(self._spoken_for, (hope.start, hope.stop))]

    def forget(self, beginning: str) -> None:
        """Forget every unused block of texts that begin with an adapter's name; nobody may be using them."""
        for key, block in list(self.found.items()):
            if key.beginning == beginning:
                self._forget(block)
                del self.reusable[block]
                self._put_back(block)

    def check_integrity(self, requests: Sequence[Request]) -> None:
        """Assert the invariants, given every request that holds blocks."""
        counted = [0] * self.num_blocks
        for request in requests:
            assert len(set(request.block_table)) == len(request.block_table), "a block twice in one table"
            assert request.num_computed <= len(request.block_table) * self.block_size, "computed tokens without room"
            for block in request.block_table:
                counted[block] += 1
        hopes = sorted((hope.start, hope.stop) for hope in self.hopes.values() if hope)
        assert hopes == self._spoken_for, "hopes, and what is spoken for"
        assert all(before[1] <= after[0] for before, after in pairwise(hopes)), "two hope for one block"
        assert counted == self.users, "user counts differ from the block tables"
        unused = {block for block, users in enumerate(self.users) if users == 0}
        assert set(self.empty) | set(self.reusable) == unused, "unused blocks and free lists differ"
        assert not set(self.empty) & set(self.reusable), "a block in both free lists"
        assert {block for gap in self.gaps for block in gap} == set(self.empty), "empty blocks and gaps differ"
        assert all(self.keys[block] is None for block in self.empty), "an empty block with a key"
        assert all(self.keys[block] is not None for block in self.reusable), "a reusable block without a key"
        assert all(self.keys[block] == key for key, block in self.found.items()), "a key that finds another text"

    def _tokens_of(self, request: Request, index: int) -> tuple[int, ...]:
        return tuple(request.token_ids[index * self.block_size : (index + 1) * self.block_size])

    def _use(self, block: int) -> None:
        if self.users[block] == 0:
            del self.reusable[block]
        self.users[block] += 1

    def _hope(self, request: Request, place: range) -> None:
        self.hopes[request] = place
        if place:
            insort(self._spoken_for, (place.start, place.stop))

    def _place_for(self, request: Request) -> range:
        """Neighbouring empty blocks for all a request may still write, or as long a row as is found in a few places.

        Tokens in neighbouring blocks can be read without copying them together first.
        """
        wanted = self.blocks_for(max(request.max_total, len(request.token_ids))) - len(request.block_table)
        best = range(0)
        for gap in islice(self.gaps.by_fit(wanted), _PLACES):
            for place in self._not_spoken_for(gap):
                if len(place) >= wanted:
                    return place[:wanted]
                best = place if len(place) > len(best) else best
        return best

    def _not_spoken_for(self, gap: range) -> Iterator[range]:
        """The parts of a gap where nobody hopes to grow."""
        index = bisect_left(self._spoken_for, (gap.start, 0))
        start = max(gap.start, self._spoken_for[index - 1][1]) if index else gap.start
        while start < gap.stop:
            later = self._spoken_for[index] if index < len(self._spoken_for) else (gap.stop, gap.stop)
            if start < min(later[0], gap.stop):
                yield range(start, min(later[0], gap.stop))
            start, index = later[1], index + 1

    def _next_hope(self, request: Request) -> int | None:
        """The block after the request's last one, if it is where the request hopes to grow."""
        hope, table = self.hopes[request], request.block_table
        wish = table[-1] + 1 if table and table[-1] in hope else hope.start
        return wish if wish in hope and wish in self.empty else None

    def _take(self, wish: int | None) -> int:
        if wish is not None or self.empty:
            block = next(iter(self.empty)) if wish is None else wish
            del self.empty[block]
            self.gaps.remove(block)
        else:
            block, _ = self.reusable.popitem(last=False)
            self._forget(block)
            self.evictions += 1
        self.users[block] = 1
        return block

    def _release(self, block: int) -> None:
        self.users[block] -= 1
        if self.users[block]:
            return
        key = self.keys[block]
        if key is not None and self.found.get(key) == block:
            self.reusable[block] = None
        else:
            self.keys[block] = None
            self._put_back(block)

    def _put_back(self, block: int) -> None:
        self.empty[block] = None
        self.gaps.add(block)

    def _forget(self, block: int) -> None:
        key = self.keys[block]
        assert key is not None
        if self.found.get(key) == block:
            del self.found[key]
        self.keys[block] = None
