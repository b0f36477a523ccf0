"""How fast text becomes ids, next to the bare `sentencepiece` library in the same run.

The text is made here: Chinese, English, digits, punctuation, code, in lines of all lengths, the same on every machine.
One core, best of several runs; MB/s count UTF-8 bytes.

    python benchmarks/tokenizer.py [--model FILE] [--megabytes 2]
"""

import argparse
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import sentencepiece

from chatglm.model.tokenizer import ChatGLMTokenizer, StreamDecoder

CHINESE = "人工智能助手今天天气怎么样我想知道北京到上海多远请写一首关于春天的诗谢谢你的回答很有帮助语言模型可以"
ENGLISH = [
    "the", "model", "answers", "questions", "about", "weather", "and", "code", "please", "write", "a", "short",
    "story", "tokens", "per", "second", "are", "measured", "on", "one", "core", "without", "any", "tricks", "however",
    "long", "words", "like", "internationalization", "appear", "sometimes",
]  # fmt: skip
CODE = ["def f(x):", "    return x * 2 + 1", "for i in range(10):", "print(f'{i:>4}')", '{"key": [1, 2.5, null]}']


def corpus(size: int) -> list[str]:
    """Lines of mixed text, about `size` bytes in all."""
    random_source = random.Random(0)
    lines: list[str] = []
    while size > 0:
        lines.append(line(random_source))
        size -= len(lines[-1].encode()) + 1
    return lines


def line(random_source: random.Random) -> str:
    kind = random_source.random()
    if kind < 0.4:
        return "".join(random_source.choices(CHINESE, k=random_source.randint(5, 60))) + "。"
    if kind < 0.75:
        return " ".join(random_source.choices(ENGLISH, k=random_source.randint(3, 40))).capitalize() + "."
    if kind < 0.9:
        words = random_source.choices(ENGLISH, k=4) + random_source.choices(CHINESE, k=8)
        return f"{random_source.randint(1, 99999)}. " + " ".join(words) + "！👋"
    return random_source.choice(CODE)


def seconds(function: Callable[[], Any], runs: int) -> float:
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def hardware() -> str:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        names = [row.split(":")[1] for row in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in row]
        model = names[0].strip() if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores usable, 1 used; Python {platform.python_version()}"


def default_model() -> Path:
    demo = [
        Path(str(path)) for path in files("chatglm.demo").joinpath("weights").iterdir() if path.name.endswith(".model")
    ]
    tiny = Path(__file__).parents[1] / "tests" / "golden" / "tiny_tokenizer" / "tokenizer.model"
    return demo[0] if demo else tiny


def measurements(model: Path, lines: Sequence[str]) -> list[tuple[str, Callable[[], Any], Callable[[], Any]]]:
    """What is measured, by this package, and the same by sentencepiece."""
    ours, theirs = (
        ChatGLMTokenizer(model, version="chatglm3"),
        sentencepiece.SentencePieceProcessor(model_file=str(model)),
    )
    text, batch = "\n".join(lines), list(lines)
    ids = theirs.encode(text)
    if ours(text, add_special_tokens=False)["input_ids"] != ids or ours.decode(ids) != text:
        raise SystemExit(f"{model}: the ids are not those of sentencepiece")

    def stream() -> str:
        decoder = StreamDecoder(ours)
        return "".join(map(decoder.push, ids)) + decoder.flush()

    return [
        ("tokenizer(text), one long text", lambda: ours(text), lambda: theirs.encode(text)),
        ("tokenizer(text), line by line", lambda: [ours(t) for t in lines], lambda: [theirs.encode(t) for t in lines]),
        ("tokenizer(texts), one batch", lambda: ours(batch), lambda: theirs.encode(batch, num_threads=1)),
        ("encode, line by line", lambda: [ours.encode(t) for t in lines], lambda: [theirs.encode(t) for t in lines]),
        ("decode, one long text", lambda: ours.decode(ids), lambda: theirs.decode(ids)),
        ("StreamDecoder, id by id", stream, lambda: theirs.decode(ids)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=default_model(), help="a tokenizer.model")
    parser.add_argument("--megabytes", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        print(hardware())
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    lines = corpus(int(options.megabytes * 1e6))
    megabytes = sum(len(text.encode()) + 1 for text in lines) / 1e6
    print(f"{options.model}: {megabytes:.1f} MB in {len(lines)} lines, best of {options.runs}")
    print(f"{'':34}{'ours':>12}{'sentencepiece':>15}{'ratio':>8}")
    for name, ours, theirs in measurements(options.model, lines):
        own, bare = (megabytes / seconds(function, options.runs) for function in (ours, theirs))
        print(f"{name:34}{own:>7.1f} MB/s{bare:>10.1f} MB/s{own / bare:>8.2f}")


if __name__ == "__main__":
    main()
