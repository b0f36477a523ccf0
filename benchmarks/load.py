"""What the owner of a 6B folder waits for and what memory that takes, at their own commands.

Writes an official sharded folder of random bfloat16 weights (12.5 GB; `--layers` for less) and runs, each in a fresh
process: reading it as it is, writing a quantized folder and chatting with that, `chat --quantize` twice (the second
time from the copy that the first one kept), and the official three lines. Prints seconds to the end of a one-token
answer, seconds of processor time and of these in the system's kernel, and the peaks of resident and anonymous memory.

    python benchmarks/load.py --dir /tmp --layers 28
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from chatglm.demo import WEIGHTS
from chatglm.model.config import ChatGLMConfig
from chatglm.model.layout import expected_shapes
from chatglm.model.saving import Source, save_tensors

OFFICIAL = {
    "add_qkv_bias": True, "multi_query_attention": True, "multi_query_group_num": 2, "seq_length": 8192,
    "torch_dtype": "bfloat16", "architectures": ["ChatGLMModel"], "_name_or_path": "random/chatglm3-6b-shapes",
}  # fmt: skip
CHATGLM = [sys.executable, "-m", "chatglm"]
ANSWER = ["你好", "--greedy", "--max-new-tokens", "1"]
READ = """
import sys, torch
from chatglm.model.network import ChatGLMForConditionalGeneration
model = ChatGLMForConditionalGeneration.from_pretrained(sys.argv[1], dtype="auto")
for tensor in model.state_dict().values():
    tensor.detach().flatten().view(torch.uint8)[::2048].sum()  # every page
"""
THREE_LINES = """
import sys
import chatglm
from transformers import AutoModel, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).quantize(int(sys.argv[2])).eval()
model.chat(tokenizer, "你好", history=[], do_sample=False, max_new_tokens=1)
"""
EVERY = 0.02  # seconds between two looks at a process


def write_folder(folder: Path, layers: int) -> None:
    """Random weights tensor by tensor, cut from one block of normal numbers so that writing is not waited for."""
    config = ChatGLMConfig(num_layers=layers, **OFFICIAL)
    config.save_pretrained(folder)
    block = (torch.randn(2**24, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    shapes = expected_shapes(config)
    save_tensors(folder, {name: Source(s, torch.bfloat16, partial(cut, block, s)) for name, s in shapes.items()})
    for name in ("tokenizer.model", "tokenizer_config.json"):  # few tokens, but from text to text
        shutil.copyfile(WEIGHTS / name, folder / name)


def cut(block: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    count = torch.Size(shape).numel()
    return block.repeat(-(-count // block.numel()))[:count].view(shape)


def measure(name: str, command: list[str], cache: Path) -> None:
    """Run one way and print its line of the table."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "XDG_CACHE_HOME": str(cache)}
    )
    resident = anonymous = 0
    while True:
        resident, anonymous = (max(*pair) for pair in zip((resident, anonymous), memory(process.pid), strict=True))
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        time.sleep(EVERY)
    seconds = time.perf_counter() - start
    assert process.stderr is not None
    if status != 0:
        raise SystemExit(f"{name}: {process.stderr.read().decode()[-3000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    print(
        f"| {name} | {seconds:.0f} | {cpu:.0f} | {usage.ru_stime:.0f} | {resident / 1e9:.1f} GB | "
        f"{anonymous / 1e9:.1f} GB |",
        flush=True,
    )


def memory(process: int) -> tuple[int, int]:
    """Bytes a process has in memory, and those of them that are no file's."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0, 0
    found = [re.search(rf"{name}:\s+(\d+)", text) for name in ("VmHWM", "RssAnon")]
    resident, anonymous = (int(one[1]) * 1024 if one else 0 for one in found)
    return resident, anonymous


def report(folder: Path, work: Path, scheme: str) -> None:
    bits = scheme.removeprefix("int")[0]
    source, target, cache = str(folder), str(work / "quantized"), work / "cache"
    chat = [*CHATGLM, "chat", *ANSWER, "--device", "cpu", "--model"]
    write = [*CHATGLM, "quantize", source, target, "--bits", bits]
    print("| way | seconds | of processor | of these in the kernel | peak resident | peak anonymous |")
    print("|---|---|---|---|---|---|")
    run = partial(measure, cache=cache)
    run("`from_pretrained(SRC)`, every page read", [sys.executable, "-c", READ, source])
    run(f"`chatglm quantize SRC DST --bits {bits}`", write)
    run("`chatglm chat --model DST`", [*chat, target])
    run(f"`chatglm chat --model SRC --quantize {scheme}`, first", [*chat, source, "--quantize", scheme])
    run(f"`chatglm chat --model SRC --quantize {scheme}`, later", [*chat, source, "--quantize", scheme])
    run("the same with `--no-cache`", [*chat, source, "--quantize", scheme, "--no-cache"])
    run("the official three lines", [sys.executable, "-c", THREE_LINES, source, bits])


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory from a checkpoint of 6B shapes to the first token.")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where the folders are written")
    parser.add_argument("--layers", type=int, default=28, help="28 is the 6B model; fewer for a quick look")
    parser.add_argument("--quantize", default="int4", metavar="SCHEME", help="int4 or int8 (default: int4)")
    parser.add_argument("--keep", action="store_true", help="leave the random folder in place")
    options = parser.parse_args()
    folder = options.dir / f"chatglm-random-{options.layers}"
    work = Path(tempfile.mkdtemp(dir=options.dir))
    try:
        if not (folder / "tokenizer.model").is_file():
            write_folder(folder, options.layers)
        files = sorted(folder.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        python = platform.python_version()
        print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {python}, torch {torch.__version__}")
        print(f"checkpoint: {size / 1e9:.2f} GB in {len(files)} files, {options.layers} layers\n")
        report(folder, work, options.quantize)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
