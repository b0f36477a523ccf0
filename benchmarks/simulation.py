"""Conversations over replicas, as events: what `cluster.py` simulates with.

A step of a replica costs `step` and something for every token of a prompt and every answer, see `Costs`; it batches as
the engine does, and its cache is as large as its memory. A request takes `request` to its replica.
"""

import argparse
import heapq
import itertools
import random
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from chatglm.serve.routing import Router

BLOCK = 64  # tokens; a block of the routing is 256 bytes, about as many
CACHE_BLOCK = 16  # tokens; of the engine's cache
MOST = 1100  # tokens of a conversation before its last turn: the embedded model, which real replicas have, reads 2,048


@dataclass(frozen=True)
class Costs:
    """Seconds of a step: of itself, for each token of a prompt, for each answer that goes on."""

    step: float
    prompt: float
    answer: float
    cache: int  # tokens
    request: float = 0.005  # from a client to the engine and back with the first token, beside the step
    prompts_beside_answers: int = 64  # tokens of prompts in a step in which others are answered
    batch: int = 512  # tokens of a step
    running: int = 64


COSTS = {
    # 2 cores of an AMD EPYC (Zen 4), the 6B shapes in INT4: what docs/quantization.md tells.
    "cpu": Costs(step=0.118, prompt=0.0207, answer=0.0094, cache=32_000),
    # The 6B shapes in bfloat16 at 0.8 TB/s and 60 TFLOP/s. Not measured: a share of data sheets of GPUs with 24 GB.
    "gpu": Costs(step=0.016, prompt=0.0002, answer=0.0001, cache=200_000, prompts_beside_answers=512, running=256),
    "stub": Costs(step=0.02, prompt=0.001, answer=0.0, cache=100_000, request=0.0),
}


# the load


@dataclass
class Turn:
    """One request."""

    session: int
    blocks: list[int]  # of BLOCK tokens, the last one begun
    prompt: int  # tokens
    answer: int
    arrival: float = 0.0
    left: int = 0  # tokens of the prompt still to be computed
    written: int = 0
    owner: Any = None  # the conversation


class Session:
    """A conversation: what it asks, one turn after the other."""

    def __init__(self, number: int, chosen: random.Random, systems: int) -> None:
        self.number, self.chosen = number, chosen
        self.system = chosen.randrange(systems)
        self.system_tokens = 128 * (1 + self.system % 4)
        self.tokens = self.system_tokens
        self.turns = 1 + min(11, int(chosen.expovariate(1 / 3)))

    def next(self) -> Turn | None:
        """The next request; None at the end."""
        if not self.turns or self.tokens > MOST:
            return None
        self.turns -= 1
        self.tokens += min(400, 4 + int(self.chosen.lognormvariate(3.3, 0.9)))
        answer = min(400, 4 + int(self.chosen.lognormvariate(4.2, 0.8)))
        turn = Turn(self.number, [self._block(at) for at in range(-(-self.tokens // BLOCK))], self.tokens, answer)
        self.tokens += answer
        return turn

    def _block(self, at: int) -> int:
        shared = (at + 1) * BLOCK <= self.system_tokens
        return hash((-1 - self.system if shared else self.number, at))

    def thinking(self) -> float:
        return 1 + self.chosen.expovariate(1 / 8)


def beginnings(rate: float, seconds: float, bursty: bool, chosen: random.Random) -> Iterator[float]:
    """When conversations begin."""
    now = 0.0
    while True:
        busy = not bursty or now % 20 < 2
        now += chosen.expovariate(rate * (5 if bursty and busy else 0.555 if bursty else 1))
        if now >= seconds:
            return
        yield now


@dataclass
class Result:
    """What was seen."""

    firsts: list[float] = field(default_factory=list)
    gaps: list[tuple[float, int]] = field(default_factory=list)  # seconds, how often
    asked: int = 0  # tokens of prompts
    found: int = 0  # of these in a cache
    written: int = 0
    seconds: float = 0.0  # of measuring
    begin: float = 0.0  # when it begins: before that the load comes to its level

    def counted(self, plan: "Plan") -> int:
        """How many of a plan's steps end while it is measured."""
        before = max(0, min(plan.count, int((self.begin - plan.begun) / plan.seconds)))
        after = max(0, min(plan.count, -int((self.begin + self.seconds - plan.end) // plan.seconds)))
        return plan.count - before - after

    def row(self, replicas: int) -> dict[str, float]:
        rate = self.written / self.seconds
        return {
            "TTFT p50": quantile([(value, 1) for value in self.firsts], 0.5),
            "TTFT p99": quantile([(value, 1) for value in self.firsts], 0.99),
            "TBT p50": quantile(self.gaps, 0.5),
            "TBT p99": quantile(self.gaps, 0.99),
            "cache hits": self.found / max(1, self.asked),
            "tokens/s": rate,
            "tokens/s per replica": rate / replicas,
            "tokens per machine-hour": 3600 * rate / replicas,
        }


def quantile(values: list[tuple[float, int]], share: float) -> float:
    total, seen = sum(count for _, count in values), 0
    for value, count in sorted(values):
        seen += count
        if seen >= share * total:
            return value
    return 0.0


# the replicas


@dataclass
class Plan:
    """Steps that are being taken: the same one `count` times."""

    begun: float
    seconds: float
    count: int
    answering: list[Turn]

    @property
    def end(self) -> float:
        return self.begun + self.seconds * self.count


class Replica:
    """One engine: a queue, a batch, and a cache of blocks."""

    def __init__(self, costs: Costs, result: Result) -> None:
        self.costs, self.result = costs, result
        self.waiting: deque[Turn] = deque()
        self.running: list[Turn] = []
        self.cache: OrderedDict[int, int] = (
            OrderedDict()
        )  # block -> how many of its tokens, in whole blocks of the cache
        self.plan: Plan | None = None

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.running)

    def add(self, turn: Turn, now: float) -> None:
        """A request comes; what is planned ends with the step that runs now."""
        self.waiting.append(turn)
        if self.plan is not None and self.plan.count > 1:
            self.plan.count = max(1, min(self.plan.count, int((now - self.plan.begun) / self.plan.seconds) + 1))

    def begin(self, now: float) -> Plan | None:
        """The next steps: one, or as many as are alike."""
        answering = [turn for turn in self.running if not turn.left]
        for_prompts = self.costs.prompts_beside_answers if answering else self.costs.batch
        room = min(self.costs.batch - len(answering), for_prompts)
        computed = 0
        for turn in [turn for turn in self.running if turn.left]:
            computed += self._part(turn, room - computed, answering)
        while self.waiting and len(self.running) < self.costs.running and computed < room:
            turn = self.waiting.popleft()
            self._admit(turn)
            computed += self._part(turn, room - computed, answering)
        if not self.running:
            self.plan = None
            return None
        seconds = self.costs.step + self.costs.prompt * computed + self.costs.answer * len(answering)
        alike = not computed and not self.waiting
        count = min(turn.answer - turn.written for turn in answering) if alike else 1
        self.plan = Plan(now, seconds, count, answering)
        return self.plan

    def _admit(self, turn: Turn) -> None:
        known = 0
        for block in turn.blocks:
            here = self.cache.get(block, 0)
            known += here
            if here < BLOCK:
                break
        most = (turn.prompt - 1) // CACHE_BLOCK * CACHE_BLOCK  # the last token is always computed
        turn.left = turn.prompt - min(known, most)
        if turn.arrival >= self.result.begin:
            self.result.asked += turn.prompt
            self.result.found += turn.prompt - turn.left
        self.running.append(turn)

    @staticmethod
    def _part(turn: Turn, room: int, answering: list[Turn]) -> int:
        part = min(turn.left, room)
        turn.left -= part
        if not turn.left:
            answering.append(turn)
        return part

    def finish(self) -> list[Turn]:
        """The planned steps are done -> who is answered."""
        plan, done = self.plan, []
        assert plan is not None
        counted = self.result.counted(plan)
        counts = counted > 0
        if counts and (going_on := sum(turn.written > 0 for turn in plan.answering)):
            self.result.gaps.append((plan.seconds, going_on * counted))
        for turn in plan.answering:
            if not turn.written:
                self.result.firsts += [plan.end - turn.arrival] if counts else []
                self._keep(turn)
            turn.written += plan.count
            self.result.written += counted
            if turn.written >= turn.answer:
                done.append(turn)
                self.running.remove(turn)
        return done

    def _keep(self, turn: Turn) -> None:
        last = turn.prompt % BLOCK // CACHE_BLOCK * CACHE_BLOCK if turn.prompt % BLOCK else BLOCK
        for block in reversed(turn.blocks):
            self.cache[block] = max(last, self.cache.get(block, 0))
            self.cache.move_to_end(block)
            last = BLOCK
        while len(self.cache) * BLOCK > self.costs.cache:
            self.cache.popitem(last=False)


class Cluster:
    """Replicas, what is sent to them, and the time."""

    def __init__(self, count: int, costs: Costs, routing: str, result: Result) -> None:
        self.result, self.costs = result, costs
        self.replicas = {f"r{number}": Replica(costs, self.result) for number in range(count)}
        self.router, self.routing = Router(capacity=costs.cache // BLOCK), routing
        self.load = dict.fromkeys(self.replicas, 0)
        self._events: list[tuple[float, int, Any]] = []
        self._order = itertools.count()
        self._planned: dict[str, float] = {}

    def run(self, sessions: Iterator[tuple[float, Session]]) -> Result:
        """To the end of what is measured."""
        for begins, session in sessions:
            self._ask(session, begins)
        end = self.result.begin + self.result.seconds
        while self._events and self._events[0][0] < end:
            now, _, what = heapq.heappop(self._events)
            if isinstance(what, str):
                self._step_done(what, now)
            elif isinstance(what[0], str):
                self._come(*what, now)
            else:
                self._send(*what, now)
        for replica in self.replicas.values():  # what is being answered at the end
            if replica.plan is not None:
                replica.finish()
        return self.result

    def _ask(self, session: Session, when: float) -> None:
        turn = session.next()
        if turn is not None:
            turn.arrival = when
            heapq.heappush(self._events, (when, next(self._order), (session, turn)))

    def _send(self, session: Session, turn: Turn, now: float) -> None:
        name = self._chosen(turn)
        turn.owner = session
        self.load[name] += 1
        heapq.heappush(self._events, (now + self.costs.request, next(self._order), (name, turn)))

    def _come(self, name: str, turn: Turn, now: float) -> None:
        """A request reaches the replica that was chosen for it."""
        replica = self.replicas[name]
        replica.add(turn, now)
        if replica.plan is None:
            replica.begin(now)
        self._schedule(name)

    def _chosen(self, turn: Turn) -> str:
        if self.routing == "random":
            return random.Random(hash((turn.session, turn.prompt))).choice(list(self.load))
        blocks = turn.blocks[: turn.prompt // BLOCK] if self.routing == "prefix" else []
        name = self.router.first(blocks, self.load)
        self.router.note(blocks, name)
        return name

    def _schedule(self, name: str) -> None:
        plan = self.replicas[name].plan
        if plan is not None and self._planned.get(name) != plan.end:
            self._planned[name] = plan.end
            heapq.heappush(self._events, (plan.end, next(self._order), name))

    def _step_done(self, name: str, now: float) -> None:
        if self._planned.get(name) != now:
            return  # it was planned anew
        del self._planned[name]
        for turn in self.replicas[name].finish():
            self.load[name] -= 1
            self._ask(turn.owner, now + turn.owner.thinking())
        self.replicas[name].begin(now)
        self._schedule(name)


WARM_UP = 45.0  # seconds; a conversation lasts about as long


def load_of(options: argparse.Namespace, replicas: int) -> Iterator[tuple[float, Session]]:
    """Conversations, about so many at once for each replica."""
    chosen = random.Random(options.seed)
    rate = options.users * replicas / WARM_UP
    for number, begins in enumerate(beginnings(rate, WARM_UP + options.seconds, options.bursty, chosen)):
        yield begins, Session(number, random.Random(f"{options.seed} {number}"), options.systems)


def simulated(options: argparse.Namespace, replicas: int, costs: Costs | None = None) -> dict[str, float]:
    result = Result(seconds=options.seconds, begin=WARM_UP)
    cluster = Cluster(replicas, costs or COSTS[options.costs], options.routing, result)
    return cluster.run(load_of(options, replicas)).row(replicas)
