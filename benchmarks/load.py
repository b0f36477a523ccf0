"""How much memory and time loading takes, at the shapes of the 6B models.

Writes an official sharded folder of random bfloat16 weights (12.5 GB; `--layers` for less), loads it in fresh
processes, from a cold and a warm page cache, and prints peak resident memory, seconds and bandwidth next to those of
reading the same files plainly. Every weight page is touched before the peak is taken, so mapped files count in full.

    python benchmarks/load.py --dir /tmp --layers 28
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from chatglm.model.config import ChatGLMConfig
from chatglm.model.layout import expected_shapes
from chatglm.model.saving import Source, save_tensors

OFFICIAL = {
    "add_qkv_bias": True, "multi_query_attention": True, "multi_query_group_num": 2, "seq_length": 8192,
    "torch_dtype": "bfloat16", "architectures": ["ChatGLMModel"], "_name_or_path": "random/chatglm3-6b-shapes",
}  # fmt: skip

WORKER = """
import json, re, sys, time
import torch
from chatglm.model.network import ChatGLMForConditionalGeneration
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
imported = peak()
start = time.perf_counter()
dtype = sys.argv[2] if sys.argv[2] == "auto" else getattr(torch, sys.argv[2])
model = ChatGLMForConditionalGeneration.from_pretrained(sys.argv[1], dtype=dtype)
loaded = time.perf_counter() - start
held = 0
for tensor in model.state_dict().values():
    tensor.detach().flatten().view(torch.uint8)[::2048].sum()
    held += tensor.nbytes
touched = time.perf_counter() - start
print(json.dumps({"imported": imported, "peak": peak(), "loaded": loaded, "touched": touched, "held": held}))
"""


def write_folder(folder: Path, layers: int) -> None:
    """Random weights tensor by tensor, cut from one block of normal numbers so that writing is not waited for."""
    config = ChatGLMConfig(num_layers=layers, **OFFICIAL)
    config.save_pretrained(folder)
    block = (torch.randn(2**24, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    shapes = expected_shapes(config)
    save_tensors(folder, {name: Source(s, torch.bfloat16, partial(cut, block, s)) for name, s in shapes.items()})


def cut(block: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    count = torch.Size(shape).numel()
    return block.repeat(-(-count // block.numel()))[:count].view(shape)


def forget(folder: Path) -> None:
    """Ask the system to drop the files from the page cache."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_plainly(folder: Path) -> float:
    """Seconds to read every byte once through a buffer of 16 MB."""
    buffer = memoryview(bytearray(2**24))
    start = time.perf_counter()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return time.perf_counter() - start


def measure(folder: Path, dtype: str) -> dict[str, float]:
    command = [sys.executable, "-c", WORKER, str(folder), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def report(folder: Path, size: int, dtype: str) -> None:
    for cache in ("cold", "warm"):
        if cache == "cold":
            forget(folder)
        plain = read_plainly(folder)
        if cache == "cold":
            forget(folder)
        found = measure(folder, dtype)
        over = found["peak"] - max(size, found["held"])
        print(f"\n{cache} page cache, dtype {dtype}")
        print(f"  from_pretrained returns   {found['loaded']:8.2f} s")
        print(f"  every weight in memory    {found['touched']:8.2f} s  {size / found['touched'] / 1e9:6.2f} GB/s")
        print(f"  plain read of the files   {plain:8.2f} s  {size / plain / 1e9:6.2f} GB/s")
        print(
            f"  peak resident memory      {found['peak'] / 1e9:8.2f} GB  {found['peak'] / size:6.3f} x the checkpoint"
        )
        print(f"  weights in memory         {found['held'] / 1e9:8.2f} GB")
        print(f"  over checkpoint or result {over / 1e9:8.2f} GB  (imports alone {found['imported'] / 1e9:.2f} GB)")


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and time of loading a random checkpoint of 6B shapes.")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where the folder is written")
    parser.add_argument("--layers", type=int, default=28, help="28 is the 6B model; fewer for a quick look")
    parser.add_argument("--dtype", default="auto", help="dtype to load in: auto, bfloat16, float16, float32")
    parser.add_argument("--keep", action="store_true", help="leave the folder in place")
    options = parser.parse_args()
    folder = options.dir / f"chatglm-random-{options.layers}"
    try:
        if not (folder / "config.json").is_file():
            start = time.perf_counter()
            write_folder(folder, options.layers)
            print(f"written in {time.perf_counter() - start:.0f} s")
        files = sorted(folder.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        python = platform.python_version()
        print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {python}, torch {torch.__version__}")
        print(f"checkpoint: {size / 1e9:.2f} GB in {len(files)} files, {options.layers} layers")
        report(folder, size, options.dtype)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
