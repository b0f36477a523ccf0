"""What `chatglm doctor` tells: versions, extras, devices, and how code can be isolated."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

# package -> the extra that brings it, and what for
EXTRAS = {
    "peft": ("peft", "LoRA folders"),
    "modelscope": ("modelscope", "--hub modelscope"),
    "mcp": ("mcp", "tools of MCP servers"),
    "gguf": ("gguf", "convert --to gguf"),
    "gradio": ("web", "chatglm web"),
    "IPython": ("code", "the code interpreter"),
    "fastapi": ("serve", "chatglm serve and batch"),
    "llguidance": ("structured", "answers that follow a schema"),
    "math_verify": ("evaluate", "chatglm evaluate, formulas"),
    "jieba": ("evaluate", "chatglm evaluate, Chinese words"),
    "datasets": ("download", "chatglm evaluate --download"),
    "lm_eval": ("lm-eval", "lm-evaluation-harness"),
}
# What the processor can, as Linux names it, in the order of use to the kernels.
_FEATURES = (
    "avx2",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "sve",
)


def report() -> Iterator[str]:
    """The lines, one by one: the last ones start a guest each."""
    yield f"chatglm {metadata.version('chatglm')}, Python {platform.python_version()}, {platform.platform()}"
    for package in ("torch", "transformers"):
        yield f"{package} {metadata.version(package)}"
    yield f"processor: {_processor()}"
    yield f"memory: {_memory()}"
    yield f"device: {_device()}"
    yield f"CPU kernels: {_kernels()}"
    for package, (extra, purpose) in EXTRAS.items():
        state = "installed" if find_spec(package) else f"missing; pip install 'chatglm[{extra}]'"
        yield f"{package} ({purpose}): {state}"
    from chatglm.sandbox import doctor

    yield from doctor()


def _kernels() -> str:
    from chatglm import native

    if not native.available():
        return (
            f"not here, torch is used instead: {native.why_not()}; with a C++ compiler (apt install g++) install "
            "this package again"
        )
    return f"{native.level()} (of {', '.join(native.levels())}), {native.num_threads()} threads"


def _device() -> str:
    import torch

    from chatglm.loading import best_device

    if torch.cuda.is_available():
        cards = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
        kernels = (
            "Triton kernels" if find_spec("triton") else "no Triton: quantized weights are slow; pip install triton"
        )
        return "; ".join(f"{card.name}, {card.total_memory / 1e9:.0f} GB" for card in cards) + f" (cuda; {kernels})"
    if torch.version.cuda is None and Path("/proc/driver/nvidia").exists():
        return f"{best_device()}; there is an NVIDIA card, but this torch is built without CUDA: install another one"
    return str(best_device())


def _processor() -> str:
    """Its name, cores and what it can, where the system tells."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    told = _fields("/proc/cpuinfo")
    name = told.get("model name") or platform.processor() or platform.machine()
    can = set((told.get("flags") or told.get("Features") or "").split())
    features = " ".join(feature for feature in _FEATURES if feature in can)
    return f"{name}, {cores} cores" + (f"; {features}" if features else "")


def _memory() -> str:
    from chatglm.memory import available_memory

    return f"{available_memory() / 1e9:.1f} GB can be taken now; chatglm info MODEL tells what a model needs"


def _fields(path: str) -> dict[str, str]:
    """`name : value` lines of a file of the system, the first of each name; nothing where there is no such file."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in reversed(lines))
    return {name.strip(): value.strip() for name, _, value in pairs}
