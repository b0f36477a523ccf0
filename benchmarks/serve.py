"""What HTTP costs: streams through `chatglm serve`, against the same requests on the engine itself.

    python benchmarks/serve.py [MODEL] [--clients 1,16,64] [--tokens 64] [--rounds 3] [-- OPTIONS OF chatglm serve]

Every client asks one question after another and reads a stream to its end. Server, engine and load run on the same
processors, the load in a process of its own; each figure is the median of the rounds, which take turns.
"""

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from typing import Any

from common import hardware

QUESTION = "What is the capital of France? 法国的首都是哪里？"
DIRECT = """
import sys, json, threading, time
import chatglm
model, tokenizer = chatglm.load(sys.argv[1] or None, quantize=sys.argv[2] or None)
engine = chatglm.engine_for(model, tokenizer, max_running=64, kv_memory=None).start()
ids = tokenizer.render([{"role": "user", "content": sys.argv[3]}]).ids
for line in sys.stdin:
    clients, tokens, each = json.loads(line)
    params = chatglm.SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=0.8, top_p=0.8)
    waits = []
    def client():
        for _ in range(each):
            begun = time.perf_counter()
            for index, output in enumerate(engine.stream(engine.submit(ids, params))):
                if index == 0:
                    waits.append(time.perf_counter() - begun)
    threads = [threading.Thread(target=client) for _ in range(clients)]
    begun = time.perf_counter()
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(json.dumps([clients * each * tokens / (time.perf_counter() - begun), waits]), flush=True)
"""


class Direct:
    """The engine in a process of its own, without a server."""

    def __init__(self, model: str, scheme: str) -> None:
        command = [sys.executable, "-c", DIRECT, model, scheme, QUESTION]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, clients: int, tokens: int, each: int) -> tuple[float, list[float]]:
        """Tokens a second, and the waits for first tokens."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([clients, tokens, each]) + "\n")
        self.process.stdin.flush()
        rate, waits = json.loads(self.process.stdout.readline())
        return rate, waits

    def end(self) -> None:
        self.process.kill()


class Served:
    """The same through HTTP."""

    def __init__(self, model: str, options: list[str]) -> None:
        command = [sys.executable, "-m", "chatglm", "serve", *([model] if model else []), "--port", "0", "--name", "m"]
        command += ["--log-level", "warning", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"http://([\d.]+):(\d+)", line):
                self.address = found[1], int(found[2])
                return
        raise SystemExit("the server did not start")

    def run(self, clients: int, tokens: int, each: int) -> tuple[float, list[float]]:
        """Tokens a second, and the waits for first tokens."""
        return asyncio.run(self._load(clients, tokens, each))

    async def _load(self, clients: int, tokens: int, each: int) -> tuple[float, list[float]]:
        body = {"model": "m", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": tokens}
        data = json.dumps(body | {"stream": True, "ignore_eos": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self.address[0]}\r\nContent-Length: {len(data)}\r\n\r\n"
        waits: list[float] = []
        begun = time.perf_counter()
        await asyncio.gather(*(self._client(head.encode() + data, each, waits) for _ in range(clients)))
        return clients * each * tokens / (time.perf_counter() - begun), waits

    async def _client(self, request: bytes, each: int, waits: list[float]) -> None:
        reader, writer = await asyncio.open_connection(*self.address)
        for _ in range(each):
            begun, first = time.perf_counter(), True
            writer.write(request)
            while (line := await reader.readline()) and b"[DONE]" not in line:
                if first and b'"content":"' in line and b'"content":""' not in line:
                    waits.append(time.perf_counter() - begun)
                    first = False
            while await reader.readline() not in (b"0\r\n", b""):
                pass
            await reader.readline()
        writer.close()

    def end(self) -> None:
        self.process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="", help="folder (default: the embedded model)")
    parser.add_argument("--quantize", default="", metavar="SCHEME")
    parser.add_argument("--clients", default="1,16,64")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--each", type=int, default=4, help="requests of each client in a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    more = ["--quantize", options.quantize] if options.quantize else []
    print(hardware())
    ways: list[Any] = [Direct(options.model, options.quantize), Served(options.model, more)]
    try:
        for way in ways:
            way.run(1, options.tokens, 1)
        for clients in map(int, options.clients.split(",")):
            found = [[way.run(clients, options.tokens, options.each) for way in ways] for _ in range(options.rounds)]
            rates = [statistics.median(round_[way][0] for round_ in found) for way in (0, 1)]
            waits = [statistics.median(wait for round_ in found for wait in round_[way][1]) for way in (0, 1)]
            print(
                f"{clients:3} clients: engine {rates[0]:8.1f} tok/s, served {rates[1]:8.1f} "
                f"({100 * (1 - rates[1] / rates[0]):5.1f} % less); first token {1e3 * waits[0]:7.1f} ms, "
                f"served {1e3 * waits[1]:7.1f} ms"
            )
    finally:
        for way in ways:
            way.end()


if __name__ == "__main__":
    main()
