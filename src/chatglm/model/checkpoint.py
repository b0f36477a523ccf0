"""The official checkpoint layout: which tensors a configuration asks for, whether a folder holds them, and saving them.

A folder is judged from headers alone, before any model is built. Loading itself is transformers' `from_pretrained`.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from chatglm.errors import CheckpointError
from chatglm.model.config import ChatGLMConfig
from chatglm.model.saving import Source
from chatglm.model.weights import TensorInfo, WeightFolder

if TYPE_CHECKING:
    from chatglm.model.network import ChatGLMPreTrainedModel

Head = Literal["causal_lm", "sequence_classification"]
Shape = tuple[int, ...]
# (stored values, scale, bits) -> weight: how `quant/` undoes row-wise storage; this room does not know it.
Dequantize = Callable[[Tensor, Tensor, int], Tensor]
# (shapes by name, stored dtype, are head and embedding one, how to read a tensor) -> what quantized ones become.
Smaller = Callable[
    [Mapping[str, Shape], torch.dtype, bool, Callable[[str], Tensor]],
    Mapping[str, Mapping[str, tuple[Shape, torch.dtype, Callable[[], Tensor]]]],
]

EMBEDDING = "transformer.embedding.word_embeddings.weight"
INV_FREQ = "transformer.rotary_pos_emb.inv_freq"
LAYERS = "transformer.encoder.layers"
FINAL_NORM = "transformer.encoder.final_layernorm"
OUTPUT = "transformer.output_layer.weight"
PREFIX = "transformer.prefix_encoder."
CLASSIFIER = "classifier_head."
_STORED = "stored_inv_freq"
SCALE = "_scale"  # `.weight_scale` beside a row-wise `.weight`
PACKED = ".packed_"  # `.packed_values` and others in place of a `.weight`


def expected_shapes(config: ChatGLMConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of an official file for this configuration, in file order.

    Includes `rotary_pos_emb.inv_freq`, the prefix encoder when `pre_seq_len` is set, and row-wise storage when
    `quantization_bit` is. A packed folder holds other tensors for the layers its scheme is about.
    """
    assert config.kv_channels is not None
    vocab = (config.padded_vocab_size, config.hidden_size)
    shapes: dict[str, Shape] = {EMBEDDING: vocab, INV_FREQ: (config.rotary_dim // 2,)}
    for layer in range(config.num_layers):
        shapes.update(_layer_shapes(config, f"{LAYERS}.{layer}"))
    if config.post_layer_norm:
        shapes.update(_norm_shapes(config, FINAL_NORM))
    shapes[OUTPUT] = vocab
    if config.pre_seq_len is not None:
        shapes.update(prefix_shapes(config, config.pre_seq_len, config.prefix_projection))
    return _packed(shapes, config)


def _packed(shapes: dict[str, Shape], config: ChatGLMConfig) -> dict[str, Shape]:
    if getattr(config, "quantization_config", None) is None:
        return shapes
    from chatglm.quant.files import packed_shapes  # this room knows the storage only here, on the way in and out
    from chatglm.quant.model import scheme_of_config

    scheme = scheme_of_config(config)
    return shapes if scheme is None else packed_shapes(shapes, scheme)


def prefix_shapes(config: ChatGLMConfig, pre_seq_len: int, projection: bool) -> dict[str, Shape]:
    """Name and shape of every tensor of a P-Tuning v2 prefix encoder with `pre_seq_len` rows."""
    assert config.kv_channels is not None
    size = config.num_layers * 2 * config.num_key_value_heads * config.kv_channels
    shapes: dict[str, Shape] = {f"{PREFIX}embedding.weight": (pre_seq_len, size)}
    if projection:
        shapes[f"{PREFIX}trans.0.weight"] = (config.hidden_size, size)
        shapes[f"{PREFIX}trans.0.bias"] = (config.hidden_size,)
        shapes[f"{PREFIX}trans.2.weight"] = (size, config.hidden_size)
        shapes[f"{PREFIX}trans.2.bias"] = (size,)
    return shapes


def verify_folder(
    folder: str | Path,
    config: ChatGLMConfig,
    *,
    head: Head = "causal_lm",
    ignore_shapes: bool = False,
) -> WeightFolder:
    """Check that the weight files of a folder are whole and hold exactly what `config` asks for.

    Reads headers only. A classification head and a whole prefix encoder may be absent (they are then new), inv_freq
    may be absent (it is computed), and names may lack the leading `transformer.`.

    Returns:
        The folder, its headers read.

    Raises:
        CheckpointError: naming file, tensor, expected and found shape of what does not fit.
    """
    weights = WeightFolder(folder)
    found = {canonical_name(name): info for name, info in weights.tensors.items()}
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


def is_storage(name: str) -> bool:
    """Whether a tensor is part of a quantized weight: its dtype is that of the storage, not of the model."""
    return name.endswith(SCALE) or PACKED in name


def canonical_name(name: str) -> str:
    """The official name of a tensor, also when the file was saved from the inner model without `transformer.`."""
    return name if name.startswith(("transformer.", CLASSIFIER)) else f"transformer.{name}"


def stored_tensors(
    weights: WeightFolder,
    *,
    bits: int = 0,
    dequantize: Dequantize | None = None,
    dtype: torch.dtype | None = None,
    rename: Callable[[str], str] = canonical_name,
) -> dict[str, Source]:
    """Every tensor of a folder under its official name, read when asked for: nothing is in memory before.

    With `bits` and `dequantize`, a row-wise `.weight` and its `.weight_scale` become one full weight, as stored.
    `dtype` casts floating point tensors. Each tensor lives in memory of its own, not in a mapped file.
    """
    sources: dict[str, Source] = {}
    turn = Lock()  # transformers asks from several threads; one tensor at a time is in the making
    for name, info in weights.tensors.items():
        if name.endswith(SCALE) and dequantize is not None:
            continue
        scale = weights.tensors.get(name + SCALE) if dequantize is not None else None
        source = _source(weights, info, scale, bits, dequantize, dtype)
        sources[rename(name)] = Source(source.shape, source.dtype, partial(_in_turn, turn, source.read))
    return sources


def full_tensors(weights: WeightFolder, config: ChatGLMConfig, dtype: torch.dtype | None = None) -> dict[str, Source]:
    """`stored_tensors` with full weights, whatever form the folder has."""
    from chatglm.quant import rowwise

    bits = config.quantization_bit
    dequantize = rowwise.dequantize if bits else None
    return unpacked_tensors(stored_tensors(weights, bits=bits, dequantize=dequantize, dtype=dtype), config, dtype)


def smaller_tensors(
    weights: WeightFolder, config: ChatGLMConfig, smaller: Smaller, dtype: torch.dtype | None = None
) -> dict[str, Source]:
    """The tensors of a folder with smaller ones in place of those that `smaller` is about, which are made from what is
    stored; `dtype` casts the others."""
    as_stored, others = full_tensors(weights, config), full_tensors(weights, config, dtype)
    shapes = {name: source.shape for name, source in as_stored.items()}
    made = smaller(shapes, as_stored[OUTPUT].dtype, config.tie_word_embeddings, lambda name: as_stored[name].read())
    result: dict[str, Source] = {}
    for name, source in others.items():
        result |= {part: Source(*tensor) for part, tensor in made[name].items()} if name in made else {name: source}
    return result


def unpacked_tensors(
    sources: dict[str, Source], config: ChatGLMConfig, dtype: torch.dtype | None = None
) -> dict[str, Source]:
    """The tensors of a packed folder as full weights, each made when it is read; those of other folders as they are.

    `dtype` of the made weights; by default that of the norms, which is what the rest of the model was stored in.
    """
    if not any(PACKED in name for name in sources):
        return sources
    from chatglm.quant.files import packed_weight
    from chatglm.quant.model import scheme_of_config

    scheme = scheme_of_config(config)
    assert scheme is not None
    plain = copy.copy(config)
    plain.__dict__.pop("quantization_config")
    dtype = dtype or next(source.dtype for name, source in sources.items() if "layernorm" in name)

    def made(layer: str, shape: Shape) -> Source:
        return Source(shape, dtype, lambda: packed_weight(layer, shape, scheme, lambda n: sources[n].read()).to(dtype))

    result: dict[str, Source] = {}
    for name, shape in expected_shapes(plain).items():
        if name in sources:
            result[name] = sources[name]
        elif f"{(layer := name.rpartition('.')[0])}.packed_values" in sources:
            result[name] = made(layer, shape)
    return result


def keep_inv_freq(model: "ChatGLMPreTrainedModel", weights: WeightFolder) -> None:
    """Remember the file's `inv_freq`, which the network computes afresh, so that saving writes the same bits."""
    name = next((name for name in weights.tensors if canonical_name(name) == INV_FREQ), None)
    if name is not None:
        setattr(_rotary(model), _STORED, weights.read(name))


def official_sources(
    model: "ChatGLMPreTrainedModel", state_dict: Mapping[str, Tensor] | None = None
) -> dict[str, Source]:
    """The tensors of a model (or of a state dict gathered from it) under official names and in official order.

    `inv_freq` is included, and `quantization_bit` decides the storage of the linears as everywhere.

    Raises:
        CheckpointError: the model holds tensors of an adapter, or of anything else official files do not have.
    """
    official = _rowwise_sources(model) if model.config.quantization_bit and not state_dict else {}
    state = {canonical_name(name): tensor for name, tensor in (state_dict or model.state_dict()).items()}
    if official:
        state = {name: tensor for name, tensor in state.items() if PACKED not in name}
    order = [*expected_shapes(model.config), f"{CLASSIFIER}weight", f"{CLASSIFIER}bias"]
    if foreign := [name for name in state if name not in order]:
        raise CheckpointError(
            f"the model holds {foreign[0]!r} and {len(foreign) - 1} more tensors that the official layout does not "
            "have; merge or remove an attached adapter before saving the whole model"
        )
    state.setdefault(INV_FREQ, inv_freq(model))
    made = {name: Source.of(tensor) for name, tensor in state.items()} | official
    return {name: made[name] for name in order if name in made}


def _rowwise_sources(model: "ChatGLMPreTrainedModel") -> dict[str, Source]:
    """The official tensors of layers that hold them in another form; each is made when it is written."""
    sources: dict[str, Source] = {}
    for name, module in model.named_modules():
        for part, (shape, dtype, make) in getattr(module, "official_tensors", dict)().items():
            sources[canonical_name(f"{name}.{part}")] = Source(shape, dtype, make)
    return sources


def inv_freq(model: "ChatGLMPreTrainedModel") -> Tensor:
    """The `inv_freq` buffer of official files, in the dtype of the model: as loaded, else 1 / 10000^(2i / dim)."""
    stored: Tensor | None = getattr(_rotary(model), _STORED, None)
    if stored is None:
        stored = official_inv_freq(model.config)
    return stored.to(model.dtype)


def official_inv_freq(config: ChatGLMConfig, dtype: torch.dtype = torch.float32) -> Tensor:
    """[rotary_dim / 2]; always of base 10000, whatever `rope_ratio` says: the official code applies the ratio later."""
    steps = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
    return (1.0 / (10000.0**steps)).to(dtype)


def _rotary(model: "ChatGLMPreTrainedModel") -> torch.nn.Module:
    return model.base_model.get_submodule("rotary_pos_emb")


def _layer_shapes(config: ChatGLMConfig, layer: str) -> dict[str, Shape]:
    assert config.kv_channels is not None
    hidden, bias = config.hidden_size, config.add_bias_linear
    context = config.num_attention_heads * config.kv_channels
    qkv_bias = bias or config.add_qkv_bias
    shapes = _norm_shapes(config, f"{layer}.input_layernorm")
    attention, mlp = f"{layer}.self_attention", f"{layer}.mlp"
    shapes |= _linear_shapes(config, f"{attention}.query_key_value", config.qkv_size, hidden, qkv_bias)
    shapes |= _linear_shapes(config, f"{attention}.dense", hidden, context, bias)
    shapes |= _norm_shapes(config, f"{layer}.post_attention_layernorm")
    shapes |= _linear_shapes(config, f"{mlp}.dense_h_to_4h", 2 * config.ffn_hidden_size, hidden, bias)
    shapes |= _linear_shapes(config, f"{mlp}.dense_4h_to_h", hidden, config.ffn_hidden_size, bias)
    return shapes


def _norm_shapes(config: ChatGLMConfig, name: str) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {f"{name}.weight": (config.hidden_size,)}
    if not config.rmsnorm:
        shapes[f"{name}.bias"] = (config.hidden_size,)
    return shapes


def _linear_shapes(config: ChatGLMConfig, name: str, rows: int, columns: int, bias: bool) -> dict[str, Shape]:
    bits = config.quantization_bit
    shapes: dict[str, Shape] = {f"{name}.weight": (rows, columns * bits // 8 if bits else columns)}
    if bits:
        shapes[f"{name}.weight{SCALE}"] = (rows,)
    if bias:
        shapes[f"{name}.bias"] = (rows,)
    return shapes


def _in_turn(turn: Lock, read: Callable[[], Tensor]) -> Tensor:
    with turn:
        return read()


def _source(
    weights: WeightFolder,
    info: TensorInfo,
    scale: TensorInfo | None,
    bits: int,
    dequantize: Dequantize | None,
    dtype: torch.dtype | None,
) -> Source:
    if scale is None or dequantize is None:
        castable = info.dtype.is_floating_point and not is_storage(info.name)
        target = dtype if dtype is not None and castable else info.dtype
        return Source(info.shape, target, lambda: weights.read(info.name).to(target))
    target = dtype or scale.dtype
    shape = (info.shape[0], info.shape[1] * 8 // bits)
    return Source(shape, target, lambda: dequantize(weights.read(info.name), weights.read(scale.name), bits).to(target))


def _check_purpose(weights: WeightFolder, found: Mapping[str, TensorInfo], config: ChatGLMConfig) -> None:
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
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("pre_seq_len") is not None:
            raise CheckpointError(
                f"{path} says pre_seq_len {config.pre_seq_len}, but the weights hold no prefix "
                f"({PREFIX}embedding.weight is missing); remove the key, or pass the prefix's folder as prefix="
            )
    if scaled is None and config.quantization_bit:
        raise CheckpointError(
            f"config.json of {weights.path} says quantization_bit {config.quantization_bit}, but the weights are full "
            f"precision (no tensor ends in 'weight{SCALE}'); remove the key, and quantize after loading"
        )


def _optional(found: Mapping[str, TensorInfo], config: ChatGLMConfig, head: Head) -> set[str]:
    names = {INV_FREQ}
    if head != "causal_lm" or config.tie_word_embeddings:
        names.add(OUTPUT)
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
        yield f"{info.file.name}: unexpected tensor {name!r} with shape {list(info.shape)}{hint}"


def _wrong_shapes(found: Mapping[str, TensorInfo], expected: Mapping[str, Shape]) -> Iterator[str]:
    for name, shape in expected.items():
        if name not in found:
            continue
        info = found[name]
        if info.shape != shape:
            yield f"{info.file.name}: tensor {name!r} has shape {list(info.shape)}, expected {list(shape)}"
        elif PACKED in name:
            continue  # their dtypes follow the scheme; the layers check them
        elif info.dtype.is_floating_point == (f"{name}{SCALE}" in expected):
            wanted = "int8" if f"{name}{SCALE}" in expected else "floating point"
            yield f"{info.file.name}: tensor {name!r} {list(shape)} has dtype {info.dtype}, expected {wanted}"
