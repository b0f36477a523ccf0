"""What HTTP costs: streams through `chatglm serve`, against the same requests on the engine itself.

    python benchmarks/serve.py [MODEL] [--clients 1,16,64] [--tokens 64] [--rounds 3]
    python benchmarks/serve.py --step 20      # the network is a stub that takes so many ms a step
    python benchmarks/serve.py --soak 180     # 64 streams for so many seconds: errors, mixed texts, memory, gaps
    python benchmarks/serve.py --leave 1000   # so many clients that leave at random: what they leave behind
    python benchmarks/serve.py --start 7      # from the command to ready, so many times, beside importing the libraries

Every client asks one question after another and reads a stream to its end. Server, engine and load run on the same
processors, each in a process of its own; each figure is the median of the rounds, which take turns. The stub lets other
threads run meanwhile, as a GPU or the native kernels do; 20 ms is a step of the 6B shapes on a small GPU.
"""

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from common import hardware

QUESTION = "What is the capital of France? 法国的首都是哪里？"
QUESTIONS = (
    "你好",
    "Hello!",
    "What is 2 + 3?",
    "你是谁？",
    "Tell me of France.",
    "北京天气怎么样？",
    "Thanks!",
    "晚安",
)


class Stub:
    """Stands for a network: the same logits for every position, after `seconds` and so many for a token of a prompt."""

    def __init__(self, seconds: float, prompt: float, vocabulary: int, token_id: int) -> None:
        import torch

        self.seconds, self.prompt, self.fixed = seconds, prompt, torch.zeros(512, vocabulary)
        self.fixed[:, token_id] = 20

    def __call__(self, ids: list[int], positions: list[int], kept: list[int], paged: Any) -> Any:
        time.sleep(self.seconds + self.prompt * (len(ids) - len(kept)))
        return self.fixed[: len(kept)].clone()


def stub(model: Any, tokenizer: Any, milliseconds: float, prompt: float = 0.0) -> None:
    """Put a stub in the network's place; `prompt` are milliseconds for each token of a prompt."""
    if milliseconds:
        token_id = tokenizer("好", add_special_tokens=False)["input_ids"][-1]
        model.__dict__["step_logits"] = Stub(milliseconds / 1e3, prompt / 1e3, model.config.vocab_size, token_id)


# in processes of their own


def be_engine(options: argparse.Namespace) -> None:
    """Answers lines of [clients, tokens, requests of each] with the rate and the waits."""
    import chatglm

    model, tokenizer = chatglm.load(options.model or None, quantize=options.quantize or None)
    engine = chatglm.engine_for(model, tokenizer, max_running=64, kv_memory=None)
    stub(engine.model, tokenizer, options.step)
    engine.start()
    ids = tokenizer.render([{"role": "user", "content": QUESTION}]).ids
    for line in sys.stdin:
        clients, tokens, each = json.loads(line)
        params = chatglm.SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=0.8, top_p=0.8)
        waits: list[float] = []

        def client(params: Any = params, each: int = each, waits: list[float] = waits) -> None:
            for _ in range(each):
                begun = time.perf_counter()
                for index, _output in enumerate(engine.stream(engine.submit(ids, params))):
                    if index == 0:
                        waits.append(time.perf_counter() - begun)

        threads = [threading.Thread(target=client) for _ in range(clients)]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(json.dumps([clients * each * tokens / (time.perf_counter() - begun), waits]), flush=True)


def be_server(options: argparse.Namespace) -> None:
    """`chatglm serve`, its network a stub where asked for."""
    from chatglm import cli
    from chatglm.serve import run

    loaded = run.loaded_engine

    def with_stub(given: argparse.Namespace) -> tuple[Any, Any]:
        engine, tokenizer = loaded(given)
        stub(engine.model, tokenizer, options.step)
        return engine, tokenizer

    run.loaded_engine = with_stub
    command = ["serve", *([options.model] if options.model else []), "--port", "0", "--name", "m"]
    command += ["--quantize", options.quantize] if options.quantize else []
    sys.exit(cli.main([*command, "--log-level", "warning"]))


def child(kind: str, options: argparse.Namespace, **pipes: Any) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--child", kind, "--step", str(options.step), "--quantize", options.quantize]
    return subprocess.Popen([*command, *([options.model] if options.model else [])], text=True, **pipes)


class Direct:
    """The engine without a server."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.process = child("engine", options, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

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

    def __init__(self, options: argparse.Namespace) -> None:
        self.began = time.perf_counter()
        self.process = child("server", options, stderr=subprocess.PIPE)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"http://([\d.]+):(\d+)", line):
                self.address = found[1], int(found[2])
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return
        raise SystemExit("the server did not start")

    def run(self, clients: int, tokens: int, each: int) -> tuple[float, list[float]]:
        """Tokens a second, and the waits for first tokens."""
        return asyncio.run(self._load(clients, tokens, each))

    async def _load(self, clients: int, tokens: int, each: int) -> tuple[float, list[float]]:
        request = self.request(QUESTION, max_tokens=tokens, ignore_eos=True)
        waits: list[float] = []
        begun = time.perf_counter()
        await asyncio.gather(*(self._client(request, each, waits) for _ in range(clients)))
        return clients * each * tokens / (time.perf_counter() - begun), waits

    def request(self, question: str, **options: Any) -> bytes:
        """The bytes of a request for a stream."""
        body = {"model": "m", "messages": [{"role": "user", "content": question}], "stream": True, **options}
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self.address[0]}\r\nContent-Length: {len(data)}\r\n\r\n"
        return head.encode() + data

    async def _client(self, request: bytes, each: int, waits: list[float]) -> None:
        reader, writer = await asyncio.open_connection(*self.address)
        for _ in range(each):
            begun, first, last = time.perf_counter(), True, b""
            writer.write(request)
            while not last.endswith(b"0\r\n\r\n"):  # reading must cost little: it takes from the same processors
                part = await reader.read(65536)
                last = (last + part)[-64:]
                if first and b'"delta":{"content":' in part:
                    waits.append(time.perf_counter() - begun)
                    first = False
        writer.close()

    def metrics(self) -> dict[str, float]:
        """What the server counts."""
        with urllib.request.urlopen(f"http://{self.address[0]}:{self.address[1]}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}

    def memory(self) -> float:
        """Resident MB."""
        return int(re.search(r"VmRSS:\s+(\d+)", self._told("status"))[1]) / 1e3  # type: ignore[index]

    def _told(self, name: str) -> str:
        return Path(f"/proc/{self.process.pid}/{name}").read_text()

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()


async def pieces(reader: asyncio.StreamReader) -> Any:
    """The texts of a stream, to its end. An error event is an error."""
    while (line := await reader.readline()) and b"[DONE]" not in line:
        if line.startswith(b"data: "):
            told = json.loads(line[6:])
            if "error" in told:
                raise RuntimeError(told["error"]["message"])
            yield told["choices"][0]["delta"].get("content") or ""
    while await reader.readline() not in (b"0\r\n", b""):
        pass
    await reader.readline()


# what is measured


def overhead(options: argparse.Namespace) -> None:
    ways: list[Any] = [Direct(options), Served(options)]
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


def soak(options: argparse.Namespace) -> None:
    """64 streams at once; every answer is compared with what the same question gets alone."""
    served = Served(options)
    try:
        print(asyncio.run(_soak(served, options)))
    finally:
        served.end()


async def _soak(served: Served, options: argparse.Namespace) -> str:
    ask = {question: served.request(question, max_tokens=options.tokens, temperature=0) for question in QUESTIONS}
    texts, gaps, memory = {}, list[float](), list[float]()
    reader, writer = await asyncio.open_connection(*served.address)
    for question, request in ask.items():
        writer.write(request)
        texts[question] = "".join([piece async for piece in pieces(reader)])
    last = time.monotonic() + options.soak
    answers = wrong = written = 0

    async def client(number: int) -> None:
        nonlocal answers, wrong, written
        reader, writer = await asyncio.open_connection(*served.address)
        chosen = random.Random(number)
        while time.monotonic() < last:
            question, text, before = chosen.choice(QUESTIONS), "", 0.0
            writer.write(ask[question])
            async for piece in pieces(reader):
                now = time.perf_counter()
                if piece and before:
                    gaps.append(now - before)
                before = now if piece else before
                text += piece
            answers, wrong, written = answers + 1, wrong + (text != texts[question]), written + len(text)
        writer.close()

    async def watch() -> None:
        while time.monotonic() < last:
            memory.append(served.memory())
            await asyncio.sleep(options.soak / 20)

    await asyncio.gather(watch(), *(client(number) for number in range(64)))
    gaps.sort()
    middle, late = gaps[len(gaps) // 2], gaps[int(0.99 * len(gaps))]
    return (
        f"64 streams for {options.soak} s: {answers} answers, {wrong} unlike their single run; between tokens "
        f"{1e3 * middle:.1f} ms, p99 {1e3 * late:.1f} ms ({late / middle:.1f} x); memory {memory[1]:.0f} MB after the "
        f"first moments, {memory[-1]:.0f} MB at the end"
    )


def leave(options: argparse.Namespace) -> None:
    """Clients that close their connection at a random moment."""
    served = Served(options)
    try:
        served.run(8, 16, 2)
        before, files = served.metrics(), served.descriptors()
        asyncio.run(_leave(served, options))
        last = time.monotonic() + 30
        while (now := served.metrics())["chatglm_engine_running"] or now["chatglm_requests_running"]:
            if time.monotonic() > last:
                break
        cached = now["chatglm_cache_tokens_free"] - before["chatglm_cache_tokens_free"]
        told = {name: now[f"chatglm_{name}"] for name in ("engine_running", "engine_waiting", "requests_running")}
        files = served.descriptors() - files
        print(f"{options.leave} clients left: {told}, free cache {cached:+.0f} tokens, {files:+} descriptors")
    finally:
        served.end()


async def _leave(served: Served, options: argparse.Namespace) -> None:
    chosen, gate = random.Random(0), asyncio.Semaphore(100)
    request = served.request(QUESTION, max_tokens=1000, ignore_eos=True)

    async def client(seconds: float) -> None:
        async with gate:
            reader, writer = await asyncio.open_connection(*served.address)
            writer.write(request[: chosen.randrange(1, len(request))] if chosen.random() < 0.2 else request)
            try:
                await asyncio.wait_for(reader.read(10**9), seconds)
            except asyncio.TimeoutError:
                writer.transport.abort()
            writer.close()

    await asyncio.gather(*(client(chosen.expovariate(2)) for _ in range(options.leave)))


LIBRARIES = "import torch, transformers"
FRAMEWORK = "import fastapi, uvicorn"
RESOLUTION = os.sysconf("SC_CLK_TCK")


def start(options: argparse.Namespace) -> None:
    """The start of `chatglm serve`, and in turn with it what its libraries take alone."""
    serve = [sys.executable, "-m", "chatglm", "serve", *([options.model] if options.model else []), "--port", "0"]
    ways = {
        "python -c 'import torch, transformers'": [sys.executable, "-c", LIBRARIES],
        "the same and 'import fastapi, uvicorn'": [sys.executable, "-c", f"{LIBRARIES}; {FRAMEWORK}"],
        "chatglm.load()": [sys.executable, "-c", "import chatglm; chatglm.load()"],
        "chatglm serve, to ready": serve,
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for command in ways.values():  # compiles what is not compiled
        _started(command, environment)
    found = {name: list[tuple[float, float]]() for name in ways}
    for _ in range(options.start):
        for name, command in ways.items():
            found[name].append(_started(command, environment))
    base = None
    for name, times in found.items():
        processor, wall = (statistics.median(column) for column in zip(*times, strict=True))
        base = base or (processor, wall)
        print(
            f"{name:<40} {processor:5.2f} s of a processor ({processor / base[0]:.2f} x), {wall:6.2f} s by the clock "
            f"({wall / base[1]:.2f} x)"
        )


def _started(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds of a processor and of the clock: to the end, or until a server is ready."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    address = next(filter(None, (re.search(r"answers at (http://\S+)/v1", line) for line in process.stderr)), None)
    if address is None:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{command} has failed")
        return used.ru_utime + used.ru_stime, time.perf_counter() - begun
    with urllib.request.urlopen(f"{address[1]}/ready"):
        wall = time.perf_counter() - begun
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    process.kill()
    process.wait()
    return (int(fields[11]) + int(fields[12])) / RESOLUTION, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="", help="folder (default: the embedded model)")
    parser.add_argument("--quantize", default="", metavar="SCHEME")
    parser.add_argument("--step", type=float, default=0, metavar="MS", help="a stub of a network with steps of so long")
    parser.add_argument("--clients", default="1,16,64")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--each", type=int, default=4, help="requests of each client in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--soak", type=int, default=0, metavar="S")
    parser.add_argument("--leave", type=int, default=0, metavar="N")
    parser.add_argument("--start", type=int, default=0, metavar="N")
    parser.add_argument("--child", choices=("engine", "server"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        be_engine(options) if options.child == "engine" else be_server(options)
        return
    print(hardware())
    ways = {"soak": soak, "leave": leave, "start": start}
    next((way for name, way in ways.items() if getattr(options, name)), overhead)(options)


if __name__ == "__main__":
    main()
