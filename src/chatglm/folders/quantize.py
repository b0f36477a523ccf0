"""From a folder with full weights to one with quantized weights, without a model in memory: `chatglm quantize`.

Weights are read, rounded and written matrix by matrix. Memory holds one matrix in full precision and what is to be
written of the file at hand; with text to calibrate on, one decoder layer (see `calibrated_folder.py`).
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from chatglm.errors import ConfigError
from chatglm.folders.disk import check_target, new_folder
from chatglm.model.checkpoint import stored_tensors, verify_folder
from chatglm.model.family import read_any_config
from chatglm.model.files import refuse_pointer, write_json
from chatglm.model.layout import SCALE, AnyConfig
from chatglm.model.plain_config import RopeRatioMeaning, read_settings
from chatglm.model.saving import Source, save_tensors
from chatglm.model.v1.config import ChatGLM1Config
from chatglm.quant import packing, rowwise
from chatglm.quant.model import EMBEDDINGS, METHOD, effective_scheme, scheme_of_layer
from chatglm.quant.parts import Count, Parts, Progress, packed_kinds, packed_parts, parts_of, together
from chatglm.quant.rounding import Method, Numbers, round_weight
from chatglm.quant.scheme import QuantScheme

Format = Literal["native", "official"]
FORMATS: tuple[Format, ...] = ("native", "official")
# Given a linear's name: what it becomes, where something better than rounding to nearest is wanted.
Rounding = Callable[[str], Parts]

_SHARD_SIZE = "1GB"
_SIDE_FILES = (
    "tokenizer.model", "ice_text.model", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json", "LICENSE", "MODEL_LICENSE",
)  # fmt: skip


def quantize_folder(
    source: str | Path,
    target: str | Path,
    scheme: QuantScheme | str | int,
    *,
    format: Format = "native",
    method: Method = "nearest",
    text: str | None = None,
    sequences: int = 64,
    length: int = 512,
    device: str = "cpu",
    max_shard_size: int | str = _SHARD_SIZE,
    rope_ratio_meaning: RopeRatioMeaning | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a quantized copy of an official folder. Returns the new folder.

    Args:
        source: folder with full weights.
        target: folder to write; it must not hold a model yet.
        scheme: what to write; its name will do.
        format: "native" holds every scheme and is what the kernels read; "official" is that of the INT4 and INT8
            releases, one scale a row and nothing else, bit for bit the official formula with method "nearest".
        method: "nearest", "mse" (searches the scales), or "gptq", which needs `text`.
        text: to calibrate on, `sequences` pieces of `length` tokens; the more alike to later use the better.
        device: where the calibration runs.
        rope_ratio_meaning: "base" or "position", for folders that set `rope_ratio` and do not tell.
        progress: called after each matrix.

    Raises:
        ConfigError: a scheme the format cannot hold, a pattern to skip that matches nothing, a folder that is quantized
        already, weights that cannot be quantized. CheckpointError: damaged or unfitting files, no room on the disk, a
        target that holds a model already.
    """
    source, target, scheme = Path(source), Path(target), QuantScheme.parse(scheme)
    _check_format(scheme, format)
    check_target(source, target)
    config = _read_config(source, scheme, rope_ratio_meaning)
    tensors = stored_tensors(verify_folder(source, config))
    scheme = effective_scheme(_Configured(config), scheme)
    for name in ("tokenizer.model", "ice_text.model", "tokenizer_config.json"):
        if (source / name).is_file():
            refuse_pointer(source / name)
    names = _names(tensors, scheme)
    count = Count(len(names), progress)
    finish = partial(_finish, tensors, scheme, format)
    rounding = _rounding(source, config, scheme, method, text, sequences, length, device, finish)
    result: dict[str, Source] = {}
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        result |= _sources(layer, tensor, names[layer], format, rounding, count) if layer in names else {name: tensor}
    with new_folder(target, sum(tensor.num_bytes for tensor in result.values())) as folder:
        save_tensors(folder, result, max_shard_size)
        _write_config(source, folder, scheme, format)
        _copy_side_files(source, folder)
    return target


class _Configured(nn.Module):
    """What `effective_scheme` wants to see of a model."""

    def __init__(self, config: AnyConfig) -> None:
        super().__init__()
        self.config = config


def _sources(
    layer: str, weight: Source, scheme: QuantScheme, format: Format, rounding: Rounding | None, count: Count
) -> dict[str, Source]:
    """The tensors to write for one matrix."""
    rows, columns = weight.shape

    def make() -> Parts:
        try:
            if rounding is not None and layer.rpartition(".")[2] not in EMBEDDINGS:
                found = rounding(layer)
            elif format == "official":
                found = _official_parts(weight.read(), scheme)
            else:
                found = packed_parts(layer, weight.read(), scheme)
        except ConfigError as error:
            raise error if layer in str(error) else ConfigError(f"{layer}: {error}") from error
        count.add(layer)
        return found

    stored = {"weight": ((rows, columns * scheme.bits // 8), torch.int8), f"weight{SCALE}": ((rows,), weight.dtype)}
    kinds = stored if format == "official" else packed_kinds((rows, columns), scheme)
    return {f"{layer}.{part}": Source(*tensor) for part, tensor in together(kinds, make).items()}


def _official_parts(weight: Tensor, scheme: QuantScheme) -> Parts:
    values, scales = rowwise.quantize(weight, scheme.bits, precise=weight.dtype == torch.bfloat16)
    return {"weight": values, f"weight{SCALE}": scales}


def _finish(tensors: Mapping[str, Source], scheme: QuantScheme, format: Format, layer: str, numbers: Numbers) -> Parts:
    """The tensors for numbers that were rounded elsewhere."""
    values, scales, zeros = (None if tensor is None else tensor.cpu() for tensor in numbers)
    assert values is not None
    assert scales is not None
    weight = tensors[f"{layer}.weight"]
    if format == "native":
        return parts_of(packing.pack(values, scales, zeros, weight.shape[1], _wanted(layer, scheme)))
    values = values[:, : weight.shape[1]].contiguous()
    stored = rowwise.pack(values) if scheme.bits == 4 else values
    return {"weight": stored, f"weight{SCALE}": scales[:, 0].to(weight.dtype)}


def _rounding(
    source: Path,
    config: AnyConfig,
    scheme: QuantScheme,
    method: Method,
    text: str | None,
    sequences: int,
    length: int,
    device: str,
    finish: Callable[[str, Numbers], Parts],
) -> Rounding | None:
    """How the linears are to be rounded; None: to nearest."""
    if method == "nearest":
        if text is not None:
            raise ConfigError("method 'nearest' uses no text; give method 'gptq' to calibrate on it")
        return None
    if method == "mse" and text is None:
        weights = stored_tensors(verify_folder(source, config))
        return lambda layer: finish(layer, round_weight(weights[f"{layer}.weight"].read(), _wanted(layer, scheme)))
    if isinstance(config, ChatGLM1Config):
        raise ConfigError(
            f"method {method!r} with a text is not there for ChatGLM-6B; use 'nearest', or 'mse' without one"
        )
    from chatglm.folders.calibrate import CalibratedFolder

    return CalibratedFolder(source, config, scheme, method, text, sequences, length, device, finish).parts


def _wanted(layer: str, scheme: QuantScheme) -> QuantScheme:
    found = scheme_of_layer(layer, scheme)
    assert found is not None
    return found


def _names(tensors: Mapping[str, Source], scheme: QuantScheme) -> dict[str, QuantScheme]:
    """The layers to quantize, and how each.

    Raises:
        ConfigError: a pattern to skip matches no layer, or all of them are skipped.
    """
    layers = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    whole = replace(scheme, skip=())
    meant = [layer for layer in layers if scheme_of_layer(layer, whole) is not None]
    for pattern in scheme.skip:
        if not any(fnmatchcase(layer, pattern) for layer in meant):
            raise ConfigError(
                f"no layer to quantize is called {pattern!r}; they are named like {meant[-1]!r} (* is allowed)"
            )
    found = {layer: wanted for layer in meant if (wanted := scheme_of_layer(layer, scheme)) is not None}
    if not found:
        raise ConfigError(f"all layers are skipped ({', '.join(scheme.skip)}): nothing is left to quantize")
    return found


def _check_format(scheme: QuantScheme, format: str) -> None:
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}; it must be one of {', '.join(FORMATS)}")
    if format == "official" and not scheme.is_official:
        raise ConfigError(
            f"the official format cannot hold {scheme}; it has one scale a row for the four linears of every layer and "
            f"nothing else, which is 'int{scheme.bits}-rowwise'"
        )


def _read_config(source: Path, scheme: QuantScheme, rope_ratio_meaning: RopeRatioMeaning | None) -> AnyConfig:
    held = read_settings(source).get("quantization_config")
    config = read_any_config(source, **({"rope_ratio_meaning": rope_ratio_meaning} if rope_ratio_meaning else {}))
    if held is not None or config.quantization_bit:
        current = f"INT{config.quantization_bit}" if held is None else "with a quantization_config"
        raise ConfigError(f"{source} is quantized already ({current}); quantize the full weights to get {scheme.name}")
    return config


def _write_config(source: Path, target: Path, scheme: QuantScheme, format: Format) -> None:
    settings: dict[str, Any] = read_settings(source)
    if format == "official":
        settings["quantization_bit"] = scheme.bits
    else:
        settings["quantization_config"] = {"quant_method": METHOD, "scheme": scheme.to_dict()}
    write_json(target / "config.json", settings)


def _copy_side_files(source: Path, target: Path) -> None:
    """The tokenizer, settings and licence; and the program files that official readers need."""
    for path in (*(source / name for name in _SIDE_FILES), *sorted(source.glob("*.py"))):
        if path.is_file():
            shutil.copyfile(path, target / path.name)
