"""What the model in a folder is, told from its configuration and headers alone; and rewriting folders.

Behind `chatglm info` and `chatglm convert`. Nothing is loaded.
"""

import copy
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chatglm.errors import CheckpointError, ConfigError
from chatglm.model.checkpoint import INV_FREQ, PACKED, SCALE, canonical_name, expected_shapes, verify_folder
from chatglm.model.config import ChatGLMConfig, RopeRatioMeaning, read_config, read_json, read_settings
from chatglm.model.vocabulary import Vocabulary
from chatglm.model.weights import INDEX_FILES, SINGLE_FILES, TensorInfo
from chatglm.quant.model import scheme_of_config

Layout = Literal["glm", "official"]
PRECISIONS = ("float32", "bfloat16", "int8", "int4")


@dataclass(frozen=True)
class FolderInfo:
    """Facts about a model folder. Sizes in bytes."""

    folder: Path
    variant: str
    reason: str
    config: ChatGLMConfig
    num_parameters: int
    quantization_bit: int
    scheme: str | None  # of a packed folder
    dtypes: dict[str, int]  # dtype as stored -> number of tensors
    files: dict[str, int]  # weight file -> size
    linear_parameters: int  # in the four linears of every layer, which quantization makes smaller
    linear_rows: int

    @property
    def bytes_on_disk(self) -> int:
        return sum(self.files.values())

    def weight_bytes(self, precision: str) -> int:
        """Memory of the weights; int8 and int4 are the row-wise form, with everything else in 16 bits."""
        if precision in ("float32", "bfloat16"):
            return self.num_parameters * (4 if precision == "float32" else 2)
        linears = self.linear_parameters * (8 if precision == "int8" else 4) // 8 + 2 * self.linear_rows
        return linears + 2 * (self.num_parameters - self.linear_parameters)

    @property
    def cache_bytes_per_token(self) -> int:
        """Keys and values of one token in 16 bits."""
        assert self.config.kv_channels is not None
        return self.config.num_layers * 2 * self.config.num_key_value_heads * self.config.kv_channels * 2


def describe(folder: str | Path) -> FolderInfo:
    """Read a model folder's configuration and headers.

    Raises:
        CheckpointError: no model of this family in there, or damaged or unfitting weights.
    """
    folder = _existing_folder(folder, "info")
    config = read_config(folder)
    if (words := folder / "tokenizer_config.json").is_file():
        read_json(words)
    weights = verify_folder(folder, config)
    full = full_shapes(config)
    linears = {n: s for n, s in full.items() if n.endswith(_LINEARS)}
    stored = {canonical_name(name): info for name, info in weights.tensors.items()}
    variant, reason = guess_variant(folder, config)
    return FolderInfo(
        folder=folder,
        variant=variant,
        reason=reason,
        config=config,
        num_parameters=_num_parameters(full, stored),
        quantization_bit=config.quantization_bit,
        scheme=None if (scheme := scheme_of_config(config)) is None else scheme.name,
        dtypes=dict(Counter(str(info.dtype).removeprefix("torch.") for info in stored.values())),
        files={file.name: file.stat().st_size for file in weights.files},
        linear_parameters=sum(_size(shape) for shape in linears.values()),
        linear_rows=sum(shape[0] for shape in linears.values()),
    )


def _num_parameters(full: Mapping[str, tuple[int, ...]], stored: Mapping[str, TensorInfo]) -> int:
    """Those of the full model: a packed weight counts as the matrix it stands for."""
    layers = {name.rpartition(".")[0] for name in stored if PACKED in name}
    packed = sum(_size(full[f"{layer}.weight"]) for layer in layers)
    return packed + sum(_size(full.get(n, i.shape)) for n, i in stored.items() if PACKED not in n and _is_parameter(n))


def guess_variant(folder: Path, config: ChatGLMConfig) -> tuple[str, str]:
    """The name of the release a folder comes from, and what says so."""
    generation, reason = _generation(folder, config)
    if (config.num_layers, config.hidden_size) != (28, 4096):
        return f"a small {generation} network", f"{config.num_layers} layers of width {config.hidden_size}; {reason}"
    suffix = {8192: "", 131072: "-128K"}.get(config.seq_length, "")
    if config.seq_length == 32768 and config.rope_ratio != 1:
        suffix = "-32K"
    # Not from tokenizer_config.json: that of the chat model names the base model.
    if re.search(r"chatglm\S*-base\b", f"{folder.resolve().name} {_original_name(folder)}".lower()):
        suffix += "-Base"
    if config.quantization_bit:
        suffix += f"-int{config.quantization_bit}"
    return f"{generation}-6B{suffix}", reason


def info_text(folder: str | Path) -> str:
    """The description of a folder as aligned lines, ready to print."""
    info = describe(folder)
    config = info.config
    rows = [
        ("folder", str(info.folder)),
        ("model", f"{info.variant} ({info.reason})"),
        ("parameters", f"{info.num_parameters:,}"),
        ("shape", f"{config.num_layers} layers, width {config.hidden_size}, {config.num_attention_heads} heads sharing "
                  f"{config.num_key_value_heads} key/value heads of {config.kv_channels}, "
                  f"feed-forward {config.ffn_hidden_size}, vocabulary {config.padded_vocab_size}"),
        ("context", f"{config.seq_length:,} tokens; {_rope_text(config)}"),
        ("stored as", ", ".join(f"{dtype} ({count} tensors)" for dtype, count in info.dtypes.items())),
        ("quantized", info.scheme or (f"row-wise INT{info.quantization_bit}" if info.quantization_bit else "no")),
        ("files", f"{len(info.files)}, together {size_text(info.bytes_on_disk)}"),
        *[("", f"{name}  {size_text(size)}") for name, size in info.files.items()],
        ("memory for weights", "  ".join(f"{p} {size_text(info.weight_bytes(p))}" for p in PRECISIONS)),
        ("memory for context", f"{size_text(info.cache_bytes_per_token)} a token, "
                               f"{size_text(info.cache_bytes_per_token * config.seq_length)} when full (16 bits)"),
    ]  # fmt: skip
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {text}" for label, text in rows)


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
    from chatglm.model.export import to_glm, to_official
    from chatglm.quant.rowwise import dequantize

    source, target = _existing_folder(source, "convert"), Path(target)
    _check_source(source, to, rope_ratio_meaning)
    try:
        taken = [name for name in ("config.json", *SINGLE_FILES, *INDEX_FILES) if (target / name).exists()]
        if taken:
            raise CheckpointError(f"{target} already holds a model ({', '.join(taken)}); give a new folder to write to")
        if to == "glm":
            return to_glm(source, target, dequantize=dequantize, rope_ratio_meaning=rope_ratio_meaning)
        return to_official(source, target)
    except OSError as error:
        raise CheckpointError(f"{error.filename or target} cannot be read or written: {error.strerror}") from error


def _check_source(source: Path, to: Layout, rope_ratio_meaning: RopeRatioMeaning | None) -> None:
    """What the command asks of a folder before anything is written; a conversion in Python may lack a tokenizer."""
    from chatglm.model.export import read_exportable
    from chatglm.model.stock_glm import check_stock

    if to == "glm":
        read_exportable(source, rope_ratio_meaning)
    else:
        check_stock(read_settings(source))
    if to == "official" and rope_ratio_meaning is not None:
        raise ConfigError("rope_ratio_meaning is for converting to stock GLM; a stock folder says what its rotation is")
    if not (source / "tokenizer.model").is_file():
        raise CheckpointError(f"{source} has no tokenizer.model; copy it there from the base model, then convert")
    Vocabulary.from_file(source / "tokenizer.model")


def size_text(num_bytes: int) -> str:
    """Bytes in the decimal units files are sold in: 12.49 GB, 28.7 KB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.{2 if unit == 'GB' else 1}f} {unit}"
    return f"{num_bytes} bytes"


def _existing_folder(folder: str | Path, command: str) -> Path:
    path = Path(folder)
    if not str(folder).strip() or not path.is_dir():
        what = f"is a file; give the folder it lies in ({str(path.parent)!r})" if path.is_file() else "is not a folder"
        raise CheckpointError(
            f"{str(folder)!r} {what}; `chatglm {command}` takes a folder on this machine with config.json and weight "
            "files, and looks no hub names up"
        )
    return path


_LINEARS = (
    ".query_key_value.weight", ".self_attention.dense.weight", ".dense_h_to_4h.weight", ".dense_4h_to_h.weight",
)  # fmt: skip


def full_shapes(config: ChatGLMConfig) -> dict[str, tuple[int, ...]]:
    """`expected_shapes` of the same network in full precision."""
    config = copy.deepcopy(config)
    config.quantization_bit = 0
    config.__dict__.pop("quantization_config", None)
    return expected_shapes(config)


def _is_parameter(name: str) -> bool:
    return name != INV_FREQ and not name.endswith(SCALE)


def _size(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _names(folder: Path, config: ChatGLMConfig) -> str:
    """Everything that may carry the name of the release."""
    texts = [folder.resolve().name, str(config.name_or_path)]
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            texts.append(path.read_text(encoding="utf-8-sig", errors="replace")[:20_000])
    return " ".join(texts)


def _original_name(folder: Path) -> str:
    path = folder / "config.json"
    return str(json.loads(path.read_text(encoding="utf-8-sig")).get("_name_or_path", "")) if path.is_file() else ""


def _generation(folder: Path, config: ChatGLMConfig) -> tuple[str, str]:
    if config.rope_ratio_meaning is not None:
        name = "ChatGLM3" if config.rope_ratio_meaning == "base" else "ChatGLM2"
        return name, f"rope_ratio {config.rope_ratio:g} acts on the {config.rope_ratio_meaning}"
    names = _names(folder, config).lower()
    for number in ("3", "2"):
        if f"chatglm{number}" in names or f"chatglm-{number}" in names:
            return f"ChatGLM{number}", "by its name"
    if "<|assistant|>" in names:
        return "ChatGLM3", "its tokenizer knows roles"
    context = f"{config.seq_length:,} positions" + (
        "" if config.rope_ratio == 1 else f", rope_ratio {config.rope_ratio:g}"
    )
    known = {32768: "ChatGLM2", 8192: "ChatGLM3"} if config.rope_ratio == 1 else {}
    if config.seq_length in known:
        return known[config.seq_length], f"{context} without rope_ratio"
    return "ChatGLM2/3", f"{context}; nothing names the release"


def _rope_text(config: ChatGLMConfig) -> str:
    if config.rope_ratio != 1 and config.rope_ratio_meaning is None:
        return (
            f"rope_ratio {config.rope_ratio:g} of unknown meaning: say with --rope-ratio-meaning whether it acts on "
            "the base (ChatGLM3) or the position (ChatGLM2)"
        )
    base, divisor = config.rope_base_and_divisor()
    scaled = f", positions divided by {divisor:g}" if divisor != 1 else ""
    return f"rotary base {base:,.0f}{scaled}"
