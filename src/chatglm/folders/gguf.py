"""Official folders as GGUF files, which llama.cpp and its relatives run: `chatglm convert SRC DST --to gguf`.

llama.cpp knows this network as "chatglm"; what it expects was read from its sources (llama-cpp-python 0.3.36). Weights
are read, converted and written one tensor at a time. What tokens the file gets is `gguf_vocabulary.py`'s knowledge.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatglm.errors import CheckpointError, ConfigError, MissingExtraError
from chatglm.folders.disk import new_folder
from chatglm.folders.fast_tokenizer import tokenizer_config
from chatglm.folders.gguf_vocabulary import read_tokens
from chatglm.folders.packing import PARTS, split_rows
from chatglm.folders.stock_glm import has_roles
from chatglm.model.checkpoint import stored_tensors, unpacked_tensors, verify_folder
from chatglm.model.config import ChatGLMConfig, read_config
from chatglm.model.layout import EMBEDDING, FINAL_NORM, INV_FREQ, LAYERS, OUTPUT
from chatglm.model.plain_config import RopeRatioMeaning
from chatglm.model.saving import Source

DTYPES = ("f16", "f32", "bf16", "q8_0", "q4_0")
_HALF_LIMIT = 65504.0  # the largest float16
_ROWS_AT_ONCE = 4096
_OUTER = {
    EMBEDDING: "token_embd.weight",
    f"{FINAL_NORM}.weight": "output_norm.weight",
    OUTPUT: "output.weight",
}
_INNER = {
    "input_layernorm": "attn_norm",
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.dense_h_to_4h": "ffn_up",  # gate and up in one, as here
    "mlp.dense_4h_to_h": "ffn_down",
}
_LAYER_TENSOR = re.compile(re.escape(LAYERS) + r"\.(\d+)\.(.+)\.(weight|bias)")
Progress = Callable[[int, int], None]  # tensors written, tensors in all


def to_gguf(
    source: str | Path,
    target: str | Path,
    *,
    dtype: str = "f16",
    rope_ratio_meaning: RopeRatioMeaning | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write an official folder as one GGUF file. Returns the file.

    Args:
        source: official or packed folder; quantized weights are dequantized as stored. A packed `int4` folder that was
            rounded to nearest gives the same numbers again in "q4_0"; other types it is rounded to anew.
        target: the file to write; it must not be there yet.
        dtype: of the matrices: "f16", "f32", "bf16", "q8_0" or "q4_0" (whose embedding and output layer are q8_0).
            Norms and biases are always float32.
        rope_ratio_meaning: "base" or "position", for folders that set `rope_ratio` and do not tell.

    Raises:
        MissingExtraError: the package gguf is not installed.
        ConfigError: a configuration llama.cpp cannot compute, numbers the dtype cannot hold, an unknown dtype.
        CheckpointError: damaged or unfitting files, a target that is there already, too little room on the disk.
    """
    gguf = _import_gguf()
    source, target = Path(source), Path(target)
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; a GGUF file is written as one of {', '.join(DTYPES)}")
    _check_target(target)
    config = _read_config(source, rope_ratio_meaning)
    tensors = _tensors(config, source, dtype)
    roles = has_roles(source, config)
    tokens = read_tokens(source, config.padded_vocab_size, roles=roles)
    with new_folder(target.parent, sum(tensor.num_bytes(gguf) for tensor in tensors)) as folder:
        writer = gguf.GGUFWriter(folder / target.name, "chatglm")
        try:
            _add_settings(writer, gguf, config, source.resolve().name, dtype)
            tokens.add_to(writer, tokenizer_config(config.seq_length, roles=roles)["chat_template"])
            _write(writer, gguf, tensors, progress)
        finally:
            writer.close()
    return target


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the file: its name there, where it comes from, and its type ("f32" for vectors)."""

    name: str
    source: Source
    dtype: str

    def kind(self, gguf: Any) -> Any:
        return gguf.GGMLQuantizationType[self.dtype.upper()]

    def byte_shape(self, gguf: Any) -> tuple[int, ...]:
        """[rows, bytes of a row]; of a vector, its bytes."""
        block, size = gguf.GGML_QUANT_SIZES[self.kind(gguf)]
        return (*self.source.shape[:-1], self.source.shape[-1] // block * size)

    def num_bytes(self, gguf: Any) -> int:
        return int(torch.Size(self.byte_shape(gguf)).numel())

    def data(self, gguf: Any) -> Any:
        """The numbers as they lie in the file, a numpy array of bytes."""
        tensor = self.source.read()
        if self.dtype in ("q8_0", "q4_0"):
            parts = [
                gguf.quants.quantize(rows.float().numpy(), self.kind(gguf)) for rows in tensor.split(_ROWS_AT_ONCE)
            ]
            return torch.cat([torch.from_numpy(part) for part in parts]).numpy()
        kinds = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
        return tensor.to(kinds[self.dtype]).contiguous().view(torch.uint8).numpy()


def _import_gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("gguf", "gguf", "Writing a GGUF file") from error
    return gguf


def _read_config(source: Path, rope_ratio_meaning: RopeRatioMeaning | None) -> ChatGLMConfig:
    """The configuration, if llama.cpp computes the same network."""
    config = read_config(source, **({"rope_ratio_meaning": rope_ratio_meaning} if rope_ratio_meaning else {}))
    config.rope_base_and_divisor()  # its meaning must be known
    wanted: dict[str, Any] = {
        "rmsnorm": True, "post_layer_norm": True, "apply_residual_connection_post_layernorm": False,
        "add_bias_linear": False, "pre_seq_len": None, "rope_precision": "float32",
    }  # fmt: skip
    for key, value in wanted.items():
        if (found := getattr(config, key)) != value:
            raise ConfigError(f"llama.cpp cannot compute {key}={found!r} for this network; it knows {key}={value!r}")
    assert config.kv_channels is not None
    if config.kv_channels * config.num_attention_heads != config.hidden_size:
        raise ConfigError(
            f"{config.num_attention_heads} heads of {config.kv_channels} channels do not make up hidden_size "
            f"{config.hidden_size}; llama.cpp knows this network only where they do"
        )
    return config


def _tensors(config: ChatGLMConfig, source: Path, dtype: str) -> list[_Tensor]:
    """Every tensor of the file, checked, none of them read."""
    weights = verify_folder(source, config)
    stored = stored_tensors(weights, bits=config.quantization_bit)
    stored = unpacked_tensors(stored, config, torch.float32)
    found = [_tensor(config, name, tensor, dtype) for name, tensor in stored.items() if name != INV_FREQ]
    for tensor in found:
        columns = tensor.source.shape[-1]
        if tensor.dtype.startswith("q") and columns % 32:
            raise ConfigError(f"{tensor.name} has {columns} columns; {dtype} needs a multiple of 32, f16 takes any")
    return found


def _tensor(config: ChatGLMConfig, name: str, source: Source, dtype: str) -> _Tensor:
    match = _LAYER_TENSOR.fullmatch(name)
    if match is not None and match[2] in _INNER:
        new = f"blk.{match[1]}.{_INNER[match[2]]}.{match[3]}"
        if match[2].endswith("query_key_value"):
            source = Source(source.shape, source.dtype, _in_parts(config, source))
    elif name in _OUTER:
        new = _OUTER[name]
    else:
        raise CheckpointError(f"tensor {name!r} has no place in a GGUF file; only language models can be converted")
    kind = "f32" if len(source.shape) == 1 else dtype
    if kind == "q4_0" and name in (EMBEDDING, OUTPUT):
        kind = "q8_0"
    return _Tensor(new, _checked(new, source, kind), kind)


def _in_parts(config: ChatGLMConfig, fused: Source) -> Callable[[], Tensor]:
    """All queries, all keys, all values: how multi-query files have it already."""

    def read() -> Tensor:
        tensor = fused.read()
        return torch.cat([split_rows(config, tensor, part) for part in PARTS])

    return fused.read if config.multi_query_attention else read


def _checked(name: str, source: Source, kind: str) -> Source:
    """The same tensor, refused when it is read and holds what cannot be written."""

    def read() -> Tensor:
        tensor = source.read()
        largest = float(tensor.abs().max())
        if not largest < float("inf"):
            raise ConfigError(f"{name} holds NaN or infinity; every weight must be finite")
        if kind == "f16" and largest > _HALF_LIMIT:
            raise ConfigError(f"{name} holds {largest:g}, which float16 cannot; write bf16 or f32")
        return tensor

    return Source(source.shape, source.dtype, read)


def _check_target(target: Path) -> None:
    if target.is_dir():
        raise CheckpointError(
            f"{target} is a folder; give the name of the file to write, such as {target / 'model.gguf'}"
        )
    if target.exists():
        raise CheckpointError(f"{target} is there already; give another name, or delete it first")


def _add_settings(writer: Any, gguf: Any, config: ChatGLMConfig, name: str, dtype: str) -> None:
    kinds = {"f32": "ALL_F32"}
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[kinds.get(dtype, f"MOSTLY_{dtype.upper()}")])
    if dtype.startswith("q"):
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.padded_vocab_size)
    writer.add_context_length(config.seq_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.ffn_hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.layernorm_epsilon)
    base, divisor = config.rope_base_and_divisor()
    writer.add_rope_dimension_count(config.rotary_dim)
    writer.add_rope_freq_base(base)
    if divisor != 1:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(divisor)


def _write(writer: Any, gguf: Any, tensors: list[_Tensor], progress: Progress | None) -> None:
    """Header and then one tensor after the other."""
    for tensor in tensors:
        shape, kind = tensor.byte_shape(gguf), tensor.kind(gguf)
        writer.add_tensor_info(tensor.name, shape, _BYTES.numpy().dtype, tensor.num_bytes(gguf), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, tensor in enumerate(tensors):
        writer.write_tensor_data(tensor.data(gguf))
        if progress is not None:
            progress(done + 1, len(tensors))


_BYTES = torch.empty(0, dtype=torch.uint8)
