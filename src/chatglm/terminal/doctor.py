"""What `chatglm doctor` tells: versions, extras, devices, and how code can be isolated."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec

# package -> the extra that brings it, and what for
EXTRAS = {
    "peft": ("peft", "LoRA folders"),
    "modelscope": ("modelscope", "--hub modelscope"),
    "mcp": ("mcp", "tools of MCP servers"),
    "gguf": ("gguf", "convert --to gguf"),
    "gradio": ("web", "chatglm web"),
    "IPython": ("code", "the code interpreter"),
}


def report() -> Iterator[str]:
    """The lines, one by one: the last ones start a guest each."""
    yield f"chatglm {metadata.version('chatglm')}, Python {platform.python_version()}, {platform.platform()}"
    for package in ("torch", "transformers"):
        yield f"{package} {metadata.version(package)}"
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
        return f"not here, torch is used instead: {native.why_not()}"
    return f"{native.level()} (of {', '.join(native.levels())}), {native.num_threads()} threads"


def _device() -> str:
    from chatglm.loading import best_device

    return str(best_device())
