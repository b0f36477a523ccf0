"""Official folders as stock GLM folders and back, tensor by tensor, bit for bit: `chatglm convert`.

Only names differ, and query, key and value lie apart in stock GLM; no number changes.
"""

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from chatglm.errors import CheckpointError, ConfigError
from chatglm.folders.disk import check_target, new_folder
from chatglm.folders.fast_tokenizer import read_added_tokens, stock_tokenizer, tokenizer_config
from chatglm.folders.packing import PARTS, merge_rows, part_size, split_rows
from chatglm.folders.stock_glm import check_expressible, check_stock, end_ids, glm_config, has_roles, official_config
from chatglm.model.checkpoint import stored_tensors, unpacked_tensors, verify_folder
from chatglm.model.config import ChatGLMConfig, read_config
from chatglm.model.files import read_json, write_json
from chatglm.model.layout import (
    EMBEDDING,
    FINAL_NORM,
    INV_FREQ,
    LAYERS,
    OUTPUT,
    expected_shapes,
    is_packed,
    official_inv_freq,
)
from chatglm.model.plain_config import RopeRatioMeaning, read_settings
from chatglm.model.saving import Source, save_tensors
from chatglm.model.vocabulary import Vocabulary
from chatglm.model.weights import DTYPES, WeightFolder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Layout = Literal["glm", "official"]

# What the GLM form cannot hold of the official folder: its config.json, inv_freq and division into files.
SIDE_FILE = "chatglm_official.json"
GENERATION = "generation_config.json"
_OUTER = {
    EMBEDDING: "model.embed_tokens.weight",
    f"{FINAL_NORM}.weight": "model.norm.weight",
    OUTPUT: "lm_head.weight",
}
_INNER = {
    "input_layernorm.weight": "input_layernorm.weight",
    "self_attention.dense.weight": "self_attn.o_proj.weight",
    "post_attention_layernorm.weight": "post_attention_layernorm.weight",
    "mlp.dense_h_to_4h.weight": "mlp.gate_up_proj.weight",
    "mlp.dense_4h_to_h.weight": "mlp.down_proj.weight",
}
_LAYER_TENSOR = re.compile(re.escape(LAYERS) + r"\.(\d+)\.(.+)")


def convert(
    source: str | Path, target: str | Path, *, to: Layout, rope_ratio_meaning: RopeRatioMeaning | None = None
) -> Path:
    """Rewrite a model folder as stock GLM ("glm") or in the official layout ("official"). Returns the new folder.

    Quantized official folders are dequantized exactly as stored on their way to stock GLM. `rope_ratio_meaning`
    ("base" or "position") is for official folders that set `rope_ratio` and do not tell.

    Raises:
        CheckpointError: another kind of model, damaged files, no tokenizer.model, or a target that already holds a
        model or cannot be written. ConfigError: already in that form, or a configuration it cannot express.
    """
    source, target = _existing_folder(source), Path(target)
    _check_source(source, to, rope_ratio_meaning)
    if to == "glm":
        return to_glm(source, target, rope_ratio_meaning=rope_ratio_meaning)
    return to_official(source, target)


def _existing_folder(folder: str | Path) -> Path:
    path = Path(folder)
    if not str(folder).strip() or not path.is_dir():
        what = f"is a file; give the folder it lies in ({str(path.parent)!r})" if path.is_file() else "is not a folder"
        if path.suffix == ".gguf":
            what = "is a GGUF file; give the model folder it was made of"
        raise CheckpointError(
            f"{str(folder)!r} {what}; `chatglm convert` takes a folder on this machine with config.json and weight "
            "files, and looks no hub names up"
        )
    return path


def _check_source(source: Path, to: Layout, rope_ratio_meaning: RopeRatioMeaning | None) -> None:
    """What the command asks of a folder before anything is written; a conversion in Python may lack a tokenizer."""
    if to == "glm":
        read_exportable(source, rope_ratio_meaning)
    else:
        check_stock(read_settings(source))
    if to == "official" and rope_ratio_meaning is not None:
        raise ConfigError("rope_ratio_meaning is for converting to stock GLM; a stock folder says what its rotation is")
    if not (source / "tokenizer.model").is_file():
        raise CheckpointError(f"{source} has no tokenizer.model; copy it there from the base model, then convert")
    Vocabulary.from_file(source / "tokenizer.model")


def to_glm(
    source: str | Path,
    target: str | Path,
    *,
    max_shard_size: int | str | None = None,
    rope_ratio_meaning: RopeRatioMeaning | None = None,
) -> Path:
    """Write an official folder as a stock GLM folder (`GlmForCausalLM`): config, generation config and weights.

    Args:
        source: official folder; quantized weights are dequantized exactly as stored.
        target: folder to write; made when missing. Must not be `source`.
        max_shard_size: size limit of a weight file; by default the size of the source's.
        rope_ratio_meaning: "base" or "position", for folders that set `rope_ratio` and do not tell.

    Raises:
        ConfigError: the configuration has a feature stock GLM cannot express; the message names the key.
        CheckpointError: another kind of model, damaged or unfitting files; `target` is `source`.
    """
    source, target = Path(source), Path(target)
    check_target(source, target)
    config = read_exportable(source, rope_ratio_meaning)
    weights = verify_folder(source, config)
    official = stored_tensors(weights, bits=config.quantization_bit)
    official = unpacked_tensors(official, config)
    eos, tokenizer = end_ids(source, config), _stock_tokenizer(source, config)
    tensors = _glm_sources(config, official)
    with new_folder(target, _num_bytes(tensors)) as folder:
        save_tensors(folder, tensors, max_shard_size or _shard_size(weights))
        write_json(folder / "config.json", glm_config(config, official[EMBEDDING].dtype, eos))
        generation = {"eos_token_id": eos, "pad_token_id": config.pad_token_id, "do_sample": True}
        write_json(folder / GENERATION, generation | {"top_p": 0.8, "temperature": 0.8})
        if not config.quantization_bit and not is_packed(config):
            write_json(folder / SIDE_FILE, _side_file(source, config, weights))
        if tokenizer is not None:
            _write_stock_tokenizer(source, folder, config, tokenizer)
    return target


def read_exportable(folder: Path, rope_ratio_meaning: RopeRatioMeaning | None = None) -> ChatGLMConfig:
    """The configuration of an official folder that stock GLM can express.

    Raises:
        ConfigError: it cannot; the folder is stock GLM already. CheckpointError: see `read_config`.
    """
    if read_settings(folder).get("model_type") == "glm":
        raise ConfigError(f"{folder} is already stock GLM; there is nothing to convert")
    config = read_config(folder, **({"rope_ratio_meaning": rope_ratio_meaning} if rope_ratio_meaning else {}))
    check_expressible(config)
    config.rope_base_and_divisor()  # its meaning must be known
    return config


def to_official(source: str | Path, target: str | Path, *, max_shard_size: int | str | None = None) -> Path:
    """Write a stock GLM folder in the official layout; a folder made by `to_glm` comes back bit for bit.

    Raises:
        ConfigError: the folder is no GLM folder, or has a feature the official layout cannot express.
        CheckpointError: damaged, missing or unfitting weights; `target` is `source`.
    """
    source, target = Path(source), Path(target)
    check_target(source, target)
    stock = read_settings(source)
    check_stock(stock)
    side = _read_side_file(source)
    options = side["config"] if side else official_config(stock)
    config: ChatGLMConfig = ChatGLMConfig.from_dict(dict(options))
    weights = WeightFolder(source)
    official = _official_sources(config, stored_tensors(weights), source)
    if side:
        official[INV_FREQ] = Source.of(torch.tensor(side["inv_freq"], dtype=DTYPES[side["inv_freq_dtype"]]))
    layout = side["files"] if side and max_shard_size is None else None
    generation = side["generation_config"] if side and "generation_config" in side else _read_if(source, GENERATION)
    with new_folder(target, _num_bytes(official)) as folder:
        save_tensors(folder, official, max_shard_size or _shard_size(weights), layout=layout)
        write_json(folder / "config.json", options)
        if generation is not None:
            write_json(folder / GENERATION, generation)
        _write_official_tokenizer(source, folder, side)
    return target


def _num_bytes(tensors: Mapping[str, Source]) -> int:
    return sum(tensor.num_bytes for tensor in tensors.values())


def _glm_sources(config: ChatGLMConfig, official: Mapping[str, Source]) -> dict[str, Source]:
    """The tensors under stock names, in the order of the official file."""
    result = {}
    for name, source in official.items():
        if name in _OUTER:
            result[_OUTER[name]] = source
        elif match := _LAYER_TENSOR.fullmatch(name):
            prefix, rest = f"model.layers.{match[1]}.", match[2]
            if rest in _INNER:
                result[prefix + _INNER[rest]] = source
            else:
                kind = rest.rpartition(".")[2]
                result |= {f"{prefix}self_attn.{p}_proj.{kind}": _part(config, source, p) for p in PARTS}
    return result


def _part(config: ChatGLMConfig, fused: Source, part: str) -> Source:
    shape = (part_size(config, part), *fused.shape[1:])
    return Source(shape, fused.dtype, lambda: split_rows(config, fused.read(), part))


def _official_sources(config: ChatGLMConfig, stock: Mapping[str, Source], folder: Path) -> dict[str, Source]:
    """The tensors under official names and in official order, every shape checked."""
    result = {}
    for name, shape in expected_shapes(config).items():
        source = _official_source(config, name, stock, folder)
        if source.shape != shape:
            raise CheckpointError(f"{folder}: {name!r} would have shape {list(source.shape)}, expected {list(shape)}")
        result[name] = source
    return result


def _official_source(config: ChatGLMConfig, name: str, stock: Mapping[str, Source], folder: Path) -> Source:
    def take(stock_name: str) -> Source:
        if stock_name not in stock:
            raise CheckpointError(f"{folder}: tensor {stock_name!r} is missing; it becomes {name!r}")
        return stock[stock_name]

    if name == INV_FREQ:
        return Source.of(official_inv_freq(config, take(_OUTER[EMBEDDING]).dtype))
    if name in _OUTER:
        return take(_OUTER[name])
    match = _LAYER_TENSOR.fullmatch(name)
    assert match is not None, name
    prefix, rest = f"model.layers.{match[1]}.", match[2]
    if rest in _INNER:
        return take(prefix + _INNER[rest])
    query, key, value = (take(f"{prefix}self_attn.{part}_proj.{rest.rpartition('.')[2]}") for part in PARTS)
    shape = (query.shape[0] + key.shape[0] + value.shape[0], *query.shape[1:])
    return Source(shape, query.dtype, lambda: merge_rows(config, query.read(), key.read(), value.read()))


def _shard_size(weights: WeightFolder) -> int:
    """A limit that gives about as many files as there are: no limit for one, else the bytes of the largest."""
    if weights.index_file is None:
        return sys.maxsize
    return max(file.stat().st_size for file in weights.files)


def _side_file(source: Path, config: ChatGLMConfig, weights: WeightFolder) -> dict[str, Any]:
    stored = weights.read(INV_FREQ) if INV_FREQ in weights.tensors else official_inv_freq(config)
    codes = {dtype: code for code, dtype in DTYPES.items()}
    return {
        "about": "what `chatglm convert --to official` needs to write the original folder again, bit for bit",
        "config": read_settings(source),
        "tokenizer_config": _read_if(source, "tokenizer_config.json"),
        "generation_config": _read_if(source, GENERATION),
        "inv_freq": stored.double().tolist(),
        "inv_freq_dtype": codes[stored.dtype],
        "files": {name: info.file.name for name, info in weights.tensors.items()},
    }


def _read_side_file(folder: Path) -> dict[str, Any] | None:
    path = folder / SIDE_FILE
    if not path.is_file():
        return None
    side = read_json(path)
    shapes: dict[str, type] = {"config": dict, "inv_freq": list, "inv_freq_dtype": str, "files": dict}
    wrong = [key for key, kind in shapes.items() if not isinstance(side.get(key), kind)]
    if wrong or side["inv_freq_dtype"] not in DTYPES:
        raise CheckpointError(
            f"{path} is damaged ({', '.join(wrong) or 'inv_freq_dtype'}); delete it to convert without it"
        )
    return side


def _read_if(folder: Path, name: str) -> dict[str, Any] | None:
    return read_json(folder / name) if (folder / name).is_file() else None


def _stock_tokenizer(source: Path, config: ChatGLMConfig) -> "Tokenizer | None":
    """The tokenizer for programs without this package, where the folder has one at all."""
    model_file = source / "tokenizer.model"
    if not model_file.is_file():
        return None
    roles = has_roles(source, config)
    added = read_added_tokens(source, roles=roles).values()
    tokenizer = stock_tokenizer(model_file, roles=roles, added=[*added])
    if added and (count := tokenizer.get_vocab_size()) > config.padded_vocab_size:
        raise CheckpointError(
            f"{source} has {count} tokens with those that were added, and its embedding {config.padded_vocab_size} "
            "rows; resize the model to its tokenizer (resize_token_embeddings) and save it again"
        )
    return tokenizer


def _write_stock_tokenizer(source: Path, target: Path, config: ChatGLMConfig, tokenizer: "Tokenizer") -> None:
    """The SentencePiece file goes along for programs with this package."""
    shutil.copyfile(source / "tokenizer.model", target / "tokenizer.model")
    tokenizer.save(str(target / "tokenizer.json"))
    write_json(target / "tokenizer_config.json", tokenizer_config(config.seq_length, roles=has_roles(source, config)))


def _write_official_tokenizer(source: Path, target: Path, side: Mapping[str, Any] | None) -> None:
    if not (source / "tokenizer.model").is_file():
        return
    shutil.copyfile(source / "tokenizer.model", target / "tokenizer.model")
    if side and side.get("tokenizer_config") is not None:
        write_json(target / "tokenizer_config.json", side["tokenizer_config"])
    elif added := _stock_added_tokens(source):
        config = {"tokenizer_class": "ChatGLMTokenizer", "added_tokens_decoder": added}
        write_json(target / "tokenizer_config.json", config)


def _stock_added_tokens(source: Path) -> dict[str, Any]:
    """The tokens somebody added to a stock folder's tokenizer, as `tokenizer_config.json` lists them."""
    vocabulary = Vocabulary.from_file(source / "tokenizer.model")
    own = range(vocabulary.sp_size, vocabulary.n_words)
    stock = (_read_if(source, "tokenizer.json") or {}).get("added_tokens", [])
    return {
        str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in stock if token["id"] not in own
    }
