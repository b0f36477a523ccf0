"""What the model in a folder is, told from its configuration and headers alone: `chatglm info`. Nothing is loaded."""

import copy
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chatglm import hub as hubs
from chatglm.model.checkpoint import verify_folder
from chatglm.model.family import read_any_config
from chatglm.model.files import read_json
from chatglm.model.layout import PACKED, SCALE, AnyConfig, expected_shapes, is_table, output_name
from chatglm.model.v1.config import ChatGLM1Config
from chatglm.model.v1.vocabulary import FILE as FIRST_FILE
from chatglm.model.v1.vocabulary import FirstVocabulary
from chatglm.model.vocabulary import Vocabulary
from chatglm.model.weights import TensorInfo
from chatglm.quant.model import EMBEDDINGS, HEADS, scheme_of_config, scheme_of_layer
from chatglm.quant.packing import Shapes
from chatglm.quant.scheme import QuantScheme

PRECISIONS = ("float32", "bfloat16", "int8", "int4")


@dataclass(frozen=True)
class FolderInfo:
    """Facts about a model folder. Sizes in bytes."""

    folder: Path
    variant: str
    reason: str
    config: AnyConfig
    num_parameters: int
    quantization_bit: int
    scheme: str | None  # of a packed folder
    dtypes: dict[str, int]  # dtype as stored -> number of tensors
    files: dict[str, int]  # weight file -> size
    generation: str = ""  # "ChatGLM3", ..., or "ChatGLM2/3" where nothing tells

    @property
    def bytes_on_disk(self) -> int:
        return sum(self.files.values())

    def weight_bytes(self, precision: str) -> int:
        """Memory of the weights; int8 and int4 are what `chatglm quantize` writes, with everything else in 16 bits."""
        if precision in ("float32", "bfloat16"):
            return self.num_parameters * (4 if precision == "float32" else 2)
        return _quantized_bytes(self.config, QuantScheme.parse(precision))

    @property
    def cache_bytes_per_token(self) -> int:
        """Keys and values of one token in 16 bits."""
        return cache_bytes_per_token(self.config)


def cache_bytes_per_token(config: AnyConfig) -> int:
    """Keys and values of one token in 16 bits."""
    assert config.kv_channels is not None
    return config.num_layers * 2 * config.num_key_value_heads * config.kv_channels * 2


def num_parameters(config: AnyConfig) -> int:
    """Of the full network; an output layer that is the embedding counts once."""
    return sum(_size(shape) for name, shape in full_shapes(config).items() if _is_parameter(name, config))


def describe(name_or_folder: str | Path, *, hub: str | None = None) -> FolderInfo:
    """Read a model's configuration and headers; a folder, or a name as for `chatglm.load`.

    Raises:
        HubError: the name leads nowhere. CheckpointError: no model of this family in there, or damaged or unfitting
        weights.
    """
    folder = hubs.resolve(name_or_folder, hub=hub)
    config = read_any_config(folder)
    if (words := folder / "tokenizer_config.json").is_file():
        read_json(words)
    weights = verify_folder(folder, config)
    full = full_shapes(config)
    stored = weights.tensors
    variant, reason = guess_variant(folder, config)
    return FolderInfo(
        folder=folder,
        variant=variant,
        reason=reason,
        generation=_generation(folder, config)[0],
        config=config,
        num_parameters=_num_parameters(full, stored, config),
        quantization_bit=config.quantization_bit,
        scheme=None if (scheme := scheme_of_config(config)) is None else scheme.name,
        dtypes=dict(Counter(str(info.dtype).removeprefix("torch.") for info in stored.values())),
        files={file.name: file.stat().st_size for file in weights.files},
    )


def _num_parameters(full: Mapping[str, tuple[int, ...]], stored: Mapping[str, TensorInfo], config: AnyConfig) -> int:
    """Those of the full model: a packed weight counts as the matrix it stands for."""
    layers = {name.rpartition(".")[0] for name in stored if PACKED in name}
    packed = sum(_size(full[f"{layer}.weight"]) for layer in layers)
    plain = {name: info for name, info in stored.items() if PACKED not in name and _is_parameter(name, config)}
    return packed + sum(_size(full.get(name, info.shape)) for name, info in plain.items())


def guess_variant(folder: Path, config: AnyConfig) -> tuple[str, str]:
    """The name of the release a folder comes from, and what says so."""
    generation, reason = _generation(folder, config)
    if (config.num_layers, config.hidden_size) != (28, 4096):
        return f"a small {generation} network", f"{config.num_layers} layers of width {config.hidden_size}; {reason}"
    if isinstance(config, ChatGLM1Config):
        bits = f"-int{config.quantization_bit}" if config.quantization_bit else ""
        return f"{generation}{bits}{'-qe' if bits and config.quantization_embeddings else ''}", reason
    suffix = {8192: "", 131072: "-128K"}.get(config.seq_length, "")
    if config.seq_length == 32768 and config.rope_ratio != 1:
        suffix = "-32K"
    # Not from tokenizer_config.json: that of the chat model names the base model.
    if re.search(r"chatglm\S*-base\b", f"{folder.resolve().name} {_original_name(folder)}".lower()):
        suffix += "-Base"
    if config.quantization_bit:
        suffix += f"-int{config.quantization_bit}"
    return f"{generation}-6B{suffix}", reason


def info_text(name_or_folder: str | Path, *, hub: str | None = None) -> str:
    """The description of a model as aligned lines, ready to print."""
    info = describe(name_or_folder, hub=hub)
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
        ("tokenizer", _tokenizer_text(info.folder)),
        ("memory for weights", "  ".join(f"{p} {size_text(info.weight_bytes(p))}" for p in PRECISIONS)),
        ("memory for context", f"{size_text(info.cache_bytes_per_token)} a token, "
                               f"{size_text(info.cache_bytes_per_token * config.seq_length)} when full (16 bits)"),
    ]  # fmt: skip
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {text}" for label, text in rows)


def _tokenizer_text(folder: Path) -> str:
    path = folder / "tokenizer.model"
    if not path.is_file() and (folder / FIRST_FILE).is_file():
        return f"{FirstVocabulary(folder / FIRST_FILE).size:,} pieces"
    if not path.is_file():
        return "missing: copy tokenizer.model there from the base model; without it the model loads, and cannot chat"
    return f"{Vocabulary.from_file(path).sp_size:,} pieces"


def size_text(num_bytes: int) -> str:
    """Bytes in the decimal units files are sold in: 12.49 GB, 28.7 KB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.{2 if unit == 'GB' else 1}f} {unit}"
    return f"{num_bytes} bytes"


def full_shapes(config: AnyConfig) -> dict[str, tuple[int, ...]]:
    """`expected_shapes` of the same network in full precision."""
    config = copy.deepcopy(config)
    config.quantization_bit = 0
    config.__dict__.pop("quantization_config", None)
    return expected_shapes(config)


def _quantized_bytes(config: AnyConfig, scheme: QuantScheme) -> int:
    """Of all tensors of a packed folder."""
    total = 0
    for name, shape in full_shapes(config).items():
        layer, _, part = name.rpartition(".")
        if isinstance(config, ChatGLM1Config) and not _is_parameter(name, config):
            continue  # an output layer that is the embedding, and tables: in the files, not in memory
        tied = config.tie_word_embeddings and layer.endswith((*HEADS, *EMBEDDINGS))
        wanted = scheme_of_layer(layer, scheme) if part == "weight" and not tied else None
        if wanted is None:
            total += 2 * _size(shape)
            continue
        packed = Shapes(shape[0], shape[1], wanted)
        total += _size(packed.values) * packed.values_dtype.itemsize
        total += _size(packed.scales) * packed.scales_dtype.itemsize
    return total


def _is_parameter(name: str, config: AnyConfig) -> bool:
    copied = config.tie_word_embeddings or getattr(config, "quantization_embeddings", False)
    return not is_table(name) and not name.endswith(SCALE) and not (copied and name == output_name(config))


def _size(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _names(folder: Path, config: AnyConfig) -> str:
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


def _generation(folder: Path, config: AnyConfig) -> tuple[str, str]:
    if isinstance(config, ChatGLM1Config):
        images = config.vocab_size > 150_000
        return "ChatGLM-6B", "its first vocabulary, with ids of images" if images else "by its configuration"
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


def _rope_text(config: AnyConfig) -> str:
    if isinstance(config, ChatGLM1Config):
        return "each token has a place in the prompt and one in the answer"
    if config.rope_ratio != 1 and config.rope_ratio_meaning is None:
        return (
            f"rope_ratio {config.rope_ratio:g} of unknown meaning: say with --rope-ratio-meaning whether it acts on "
            "the base (ChatGLM3) or the position (ChatGLM2)"
        )
    base, divisor = config.rope_base_and_divisor()
    scaled = f", positions divided by {divisor:g}" if divisor != 1 else ""
    return f"rotary base {base:,.0f}{scaled}"
