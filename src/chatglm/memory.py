"""Whether the weights of a folder fit into the memory of this machine; asked before they are read."""

from collections.abc import Mapping
from pathlib import Path

import torch

from chatglm.errors import ConfigError
from chatglm.model.checkpoint import smaller_tensors
from chatglm.model.layout import AnyConfig, is_storage
from chatglm.model.saving import Source
from chatglm.model.weights import WeightFolder


def available_memory() -> int:
    """Bytes of memory that can be taken without swapping; a guess of 8 GB where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 8 * 10**9


def check_memory(
    weights: WeightFolder, config: AnyConfig, dtype: torch.dtype | str, tensors: Mapping[str, Source]
) -> None:
    """Raise ConfigError where the tensors that a folder's weights become cannot be held: before the work."""
    needed, free = _num_bytes(tensors, dtype), available_memory()
    if needed <= free:
        return
    from chatglm.quant.hf import PackedConfig  # loads more of transformers than is needed where there is memory

    least = _num_bytes(smaller_tensors(weights, config, PackedConfig("int4").smaller), dtype)
    advice = (
        f"--quantize int4 (in Python quantize='int4') needs {least / 1e9:.1f} GB"
        if least <= free
        else f"even int4 needs {least / 1e9:.1f} GB"
    )
    raise ConfigError(
        f"the weights of {weights.path} need {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; {advice}. "
        "`chatglm quantize` writes a smaller folder and needs 2 GB, here or on another machine"
    )


def _num_bytes(tensors: Mapping[str, Source], dtype: torch.dtype | str) -> int:
    """What tensors take when those that are no storage are in `dtype`; in any other word than a dtype, as they are."""
    total = 0
    for name, tensor in tensors.items():
        cast = isinstance(dtype, torch.dtype) and tensor.is_floating_point() and not is_storage(name)
        size = dtype.itemsize if cast and isinstance(dtype, torch.dtype) else tensor.dtype.itemsize
        total += tensor.num_bytes // tensor.dtype.itemsize * size
    return total
