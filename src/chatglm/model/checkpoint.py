"""Whether a folder holds the weights a configuration asks for, and each of them when it is asked for.

A folder is judged from headers alone, before any model is built. Loading itself is transformers' `from_pretrained`.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Literal

import torch
from torch import Tensor

from chatglm.errors import CheckpointError
from chatglm.model.layout import (
    CLASSIFIER,
    PACKED,
    PREFIX,
    SCALE,
    AnyConfig,
    computed_names,
    embedding_name,
    expected_shapes,
    is_storage,
    output_name,
)
from chatglm.model.naming import select
from chatglm.model.saving import Source
from chatglm.model.storage import Shape, smaller_weights
from chatglm.model.weights import TensorInfo, WeightFolder

Head = Literal["causal_lm", "sequence_classification"]
# (shapes by name, stored dtype, are head and embedding one, how to read a tensor) -> what quantized ones become.
Smaller = Callable[
    [Mapping[str, Shape], torch.dtype, bool, Callable[[str], Tensor]],
    Mapping[str, Mapping[str, tuple[Shape, torch.dtype, Callable[[], Tensor]]]],
]


def verify_folder(
    folder: str | Path,
    config: AnyConfig,
    *,
    head: Head = "causal_lm",
    ignore_shapes: bool = False,
) -> WeightFolder:
    """Check that the weight files of a folder are whole and hold exactly what `config` asks for.

    Reads headers only. A classification head and a whole prefix encoder may be absent (they are then new), inv_freq
    may be absent (it is computed), and names may be those of training tools, see `naming.select`.

    Returns:
        The folder with the model's tensors under their official names.

    Raises:
        CheckpointError: naming file, tensor, expected and found shape of what does not fit.
    """
    weights = select(WeightFolder(folder))
    found = weights.tensors
    _check_purpose(weights, found, config)
    expected = expected_shapes(config)
    if head == "sequence_classification":
        labels = int(config.num_labels or 0)  # transformers declares it optional
        expected |= {f"{CLASSIFIER}weight": (labels, config.hidden_size), f"{CLASSIFIER}bias": (labels,)}
    problems = [*_missing(weights, found, expected, _optional(found, config, head)), *_unexpected(found, expected)]
    if not ignore_shapes:
        problems += _wrong_shapes(found, expected)
    if problems:
        shown = "\n  ".join(problems[:8])
        more = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(f"the weights in {weights.path} do not fit the configuration:\n  {shown}{more}")
    return weights


def is_foreign(folder: Path, config: AnyConfig) -> bool:
    """Whether a folder's weight files hold not one tensor of the model.

    Raises:
        CheckpointError: as for `WeightFolder`.
    """
    return select(WeightFolder(folder)).tensors.keys().isdisjoint(expected_shapes(config))


def stored_tensors(weights: WeightFolder, *, bits: int = 0, dtype: torch.dtype | None = None) -> dict[str, Source]:
    """Every tensor of a folder, read when asked for: nothing is in memory before.

    With `bits`, a row-wise `.weight` and its `.weight_scale` become one full weight, as stored. `dtype` casts floating
    point tensors. Each tensor lives in memory of its own, not in a mapped file.
    """
    sources: dict[str, Source] = {}
    turn = Lock()  # transformers asks from several threads; one tensor at a time is in the making
    for name in weights.tensors:
        if not (bits and name.endswith(SCALE)):
            source = _source(weights, name, bits, dtype)
            sources[name] = Source(source.shape, source.dtype, partial(_in_turn, turn, source.read))
    return sources


def full_tensors(weights: WeightFolder, config: AnyConfig, dtype: torch.dtype | None = None) -> dict[str, Source]:
    """`stored_tensors` with full weights, whatever form the folder has."""
    return unpacked_tensors(stored_tensors(weights, bits=config.quantization_bit, dtype=dtype), config, dtype)


def smaller_tensors(
    weights: WeightFolder, config: AnyConfig, smaller: Smaller, dtype: torch.dtype | None = None
) -> dict[str, Source]:
    """The tensors of a folder with smaller ones in place of those that `smaller` is about, which are made from what is
    stored; `dtype` casts the others."""
    as_stored, others = full_tensors(weights, config), full_tensors(weights, config, dtype)
    shapes = {name: source.shape for name, source in as_stored.items()}
    stored = next(as_stored[name] for name in (output_name(config), embedding_name(config)) if name in as_stored)
    made = smaller(shapes, stored.dtype, config.tie_word_embeddings, lambda name: as_stored[name].read())
    result: dict[str, Source] = {}
    for name, source in others.items():
        result |= {part: Source(*tensor) for part, tensor in made[name].items()} if name in made else {name: source}
    return result


def unpacked_tensors(
    sources: dict[str, Source], config: AnyConfig, dtype: torch.dtype | None = None
) -> dict[str, Source]:
    """The tensors of a packed folder as full weights, each made when it is read; those of other folders as they are.

    `dtype` of the made weights; by default that of the norms, which is what the rest of the model was stored in.
    """
    if not any(PACKED in name for name in sources):
        return sources
    plain = copy.copy(config)
    plain.__dict__.pop("quantization_config")
    dtype = dtype or next(source.dtype for name, source in sources.items() if "layernorm" in name)
    result: dict[str, Source] = {}
    for name, shape in expected_shapes(plain).items():
        layer = name.rpartition(".")[0]
        if name in sources:
            result[name] = sources[name]
        elif f"{layer}{PACKED}values" in sources:
            result[name] = Source(shape, dtype, partial(_unpacked, layer, shape, config, sources, dtype))
    return result


def _unpacked(layer: str, shape: Shape, config: AnyConfig, sources: Mapping[str, Source], dtype: torch.dtype) -> Tensor:
    return smaller_weights().full_weight(layer, shape, config, lambda name: sources[name].read()).to(dtype)


def _in_turn(turn: Lock, read: Callable[[], Tensor]) -> Tensor:
    with turn:
        return read()


def _source(weights: WeightFolder, name: str, bits: int, dtype: torch.dtype | None) -> Source:
    info, scale = weights.tensors[name], weights.tensors.get(name + SCALE)
    if not bits or scale is None:
        castable = info.dtype.is_floating_point and not is_storage(name)
        target = dtype if dtype is not None and castable else info.dtype
        return Source(info.shape, target, lambda: weights.read(name).to(target))

    def full() -> Tensor:
        return smaller_weights().full_rowwise(weights.read(name), weights.read(name + SCALE), bits).to(target)

    target = dtype or scale.dtype
    return Source((info.shape[0], info.shape[1] * 8 // bits), target, full)


def _check_purpose(weights: WeightFolder, found: Mapping[str, TensorInfo], config: AnyConfig) -> None:
    """Folders that are something else than a whole model, or stored otherwise than `config.json` says."""
    if found and all(name.startswith(PREFIX) for name in found):
        raise CheckpointError(
            f"{weights.path} holds only a P-Tuning v2 prefix ({', '.join(found)}), not a whole model; "
            "load the base model and pass this folder as prefix="
        )
    scaled = next((name for name in found if name.endswith(SCALE)), None)
    if scaled is not None and not config.quantization_bit:
        raise CheckpointError(
            f"{found[scaled].file} holds row-wise quantized weights ({scaled!r}), but config.json says "
            'quantization_bit 0; set "quantization_bit" to 4 or 8 as the release says'
        )
    if config.pre_seq_len is not None and not any(name.startswith(PREFIX) for name in found):
        path = weights.path / "config.json"
        if path.is_file() and json.loads(path.read_text(encoding="utf-8-sig")).get("pre_seq_len") is not None:
            raise CheckpointError(
                f"{path} says pre_seq_len {config.pre_seq_len}, but the weights hold no prefix "
                f"({PREFIX}embedding.weight is missing); remove the key, or pass the prefix's folder as prefix="
            )
    if scaled is None and config.quantization_bit:
        raise CheckpointError(
            f"config.json of {weights.path} says quantization_bit {config.quantization_bit}, but the weights are full "
            f"precision (no tensor ends in 'weight{SCALE}'); remove the key, and quantize after loading"
        )


def _optional(found: Mapping[str, TensorInfo], config: AnyConfig, head: Head) -> set[str]:
    names = computed_names(config) | ({output_name(config)} if head != "causal_lm" else set())
    for prefix in (PREFIX, CLASSIFIER):
        if not any(name.startswith(prefix) for name in found):
            names.add(prefix)
    return names


def _missing(
    weights: WeightFolder, found: Mapping[str, TensorInfo], expected: Mapping[str, Shape], optional: set[str]
) -> Iterator[str]:
    where = weights.index_file or weights.files[0]
    for name, shape in expected.items():
        if name not in found and not name.startswith(tuple(optional)):
            yield f"{where.name}: tensor {name!r} is missing; expected shape {list(shape)}"


def _unexpected(found: Mapping[str, TensorInfo], expected: Mapping[str, Shape]) -> Iterator[str]:
    for name, info in found.items():
        if name in expected or name.startswith(CLASSIFIER):
            continue
        hint = "; set pre_seq_len to its number of rows" if name.startswith(PREFIX) else ""
        yield f"{info.file.name}: unexpected tensor {info.name!r} with shape {list(info.shape)}{hint}"


def _wrong_shapes(found: Mapping[str, TensorInfo], expected: Mapping[str, Shape]) -> Iterator[str]:
    for name, shape in expected.items():
        if name not in found:
            continue
        info = found[name]
        if info.shape != shape:
            yield f"{info.file.name}: tensor {info.name!r} has shape {list(info.shape)}, expected {list(shape)}"
        elif PACKED in name:
            continue  # their dtypes follow the scheme; the layers check them
        elif info.dtype.is_floating_point == (f"{name}{SCALE}" in expected):
            wanted = "int8" if f"{name}{SCALE}" in expected else "floating point"
            yield f"{info.file.name}: tensor {info.name!r} {list(shape)} has dtype {info.dtype}, expected {wanted}"
