"""The load of `simulation.py` in real time, over two replicas on Ray Serve whose networks are stubs."""

import argparse
import asyncio
import itertools
import json
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from simulation import CACHE_BLOCK, COSTS, WARM_UP, Costs, Result, Session, Turn, load_of

IDS = range(1000, 1400)  # what prompts are made of: four letters each in a request, as the routing counts


def be_cluster() -> None:
    """`chatglm serve --replicas 2` whose networks are stubs."""
    from serve import stub

    from chatglm import cli
    from chatglm.serve.cluster import deploy, replica

    costs = COSTS["stub"]

    class Stubbed(replica.Replica):  # goes to Ray's processes as it is written here
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            stub(self.engine.model, self.server.service.tokenizer, 1e3 * costs.step, 1e3 * costs.prompt)

    deploy.Replica = Stubbed  # type: ignore[misc]
    sys.exit(cli.main(["serve", "--replicas", "2", "--port", "0", "--name", "m", "--log-level", "warning"]))


def real(options: argparse.Namespace) -> tuple[Costs, dict[str, float]]:
    """Two replicas on Ray Serve, under the same load in real time: what passing on costs there, and what was seen."""
    process = subprocess.Popen([sys.executable, __file__], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = next(filter(None, (re.search(r"answers at http://([\d.]+):(\d+)", line) for line in process.stderr)))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        return asyncio.run(_replay((found[1], int(found[2])), options))
    finally:
        process.terminate()
        process.wait()


async def _replay(address: tuple[str, int], options: argparse.Namespace) -> tuple[Costs, dict[str, float]]:
    costs = await _measured(address)
    result, begun = Result(seconds=options.seconds, begin=WARM_UP), time.monotonic()
    load = [_converse(session, begins, begun, address, result) for begins, session in load_of(options, 2)]
    await asyncio.gather(*load)
    return costs, result.row(2)


PROBES, BESIDE = 12, 16


async def _measured(address: tuple[str, int]) -> Costs:
    """The costs of the stub and, by the clock, of everything around it: a request's way, a step, an answer in it."""
    stub, session = COSTS["stub"], Session(-1, random.Random(0), 1)
    turn = session.next()
    assert turn is not None
    turn.answer = 48

    async def one() -> tuple[float, list[float]]:
        begun = time.monotonic()
        times = [at async for at, told in _pieces(address, session, turn) if _text(told)]
        return times[0] - begun, [after - before for before, after in itertools.pairwise(times)]

    await asyncio.gather(*(one() for _ in range(BESIDE)))  # what is made when first needed, and the prompt is read
    alone = [await one() for _ in range(PROBES)]
    beside = await asyncio.gather(*(one() for _ in range(BESIDE)))
    left = turn.prompt - (turn.prompt - 1) // CACHE_BLOCK * CACHE_BLOCK
    step = statistics.median(gap for _, gaps in alone for gap in gaps)
    together = statistics.median(gap for _, gaps in beside for gap in gaps)
    answer = max(0.0, together - step) / (BESIDE / 2 - 1)
    first = statistics.median(first for first, _ in alone)
    return replace(
        stub,
        step=max(stub.step, step - answer),
        answer=answer,
        request=max(0.0, first - step - stub.prompt * left),
    )


async def _pieces(
    address: tuple[str, int], session: Session, turn: Turn
) -> AsyncIterator[tuple[float, dict[str, Any]]]:
    """What is told of an answer, and when."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(_request(session, turn, address[0]))
    try:
        while (line := await reader.readline()) and b"[DONE]" not in line:
            if line.startswith(b"data: "):
                told = json.loads(line[6:])
                if "error" in told:
                    raise RuntimeError(told["error"]["message"])
                yield time.monotonic(), told
    finally:
        writer.close()


def _text(told: dict[str, Any]) -> str:
    return str(told["choices"][0]["text"]) if told.get("choices") else ""


async def _converse(session: Session, begins: float, begun: float, address: tuple[str, int], result: Result) -> None:
    begin, end = begun + result.begin, begun + result.begin + result.seconds
    await asyncio.sleep(max(0.0, begun + begins - time.monotonic()))
    while (turn := session.next()) is not None and time.monotonic() < end:
        asked, last = time.monotonic(), 0.0
        async with aclosing(_pieces(address, session, turn)) as pieces:
            async for at, told in pieces:
                if at > end:
                    return
                if told.get("usage") and asked >= begin:
                    result.asked += turn.prompt
                    result.found += told["usage"]["prompt_tokens_details"]["cached_tokens"]
                elif text := _text(told):
                    if at >= begin:
                        result.firsts += [] if last else [at - asked]
                        result.gaps += [((at - last) / len(text), len(text))] if last else []
                        result.written += len(text)
                    last = at
        await asyncio.sleep(session.thinking())


def _request(session: Session, turn: Turn, host: str) -> bytes:
    system = random.Random(f"system {session.system}").choices(IDS, k=session.system_tokens)
    own = random.Random(f"session {session.number}").choices(IDS, k=turn.prompt - len(system))
    body = {"model": "m", "prompt": system + own, "max_tokens": turn.answer, "ignore_eos": True, "temperature": 0}
    data = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


if __name__ == "__main__":
    be_cluster()
