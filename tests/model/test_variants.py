"""The official configurations build networks with exactly the official tensors: names, shapes, number of parameters."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from chatglm.errors import ConfigError
from chatglm.model.config import ChatGLMConfig
from chatglm.model.layout import expected_shapes
from chatglm.model.network import ChatGLMForConditionalGeneration

# The values all official config.json files share.
COMMON = {
    "model_type": "chatglm", "architectures": ["ChatGLMModel"], "add_bias_linear": False, "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True, "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True, "bias_dropout_fusion": True, "ffn_hidden_size": 13696,
    "fp32_residual_connection": False, "hidden_dropout": 0.0, "hidden_size": 4096, "kv_channels": 128,
    "layernorm_epsilon": 1e-05, "multi_query_attention": True, "multi_query_group_num": 2, "num_attention_heads": 32,
    "num_layers": 28, "original_rope": True, "padded_vocab_size": 65024, "post_layer_norm": True, "rmsnorm": True,
    "use_cache": True, "torch_dtype": "float16", "tie_word_embeddings": False, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
# name in `_name_or_path` -> (what its file says besides, rotary base, position divisor)
VARIANTS: dict[str, tuple[dict[str, Any], float, float]] = {
    "THUDM/chatglm3-6b": ({"seq_length": 8192}, 10_000, 1),
    "THUDM/chatglm3-6b-base": ({"seq_length": 8192}, 10_000, 1),
    "THUDM/chatglm3-6b-32k": ({"seq_length": 32768, "rope_ratio": 50}, 500_000, 1),
    "THUDM/chatglm3-6b-128k": ({"seq_length": 131072, "rope_ratio": 500}, 5_000_000, 1),
    "THUDM/chatglm2-6b": ({"seq_length": 32768}, 10_000, 1),
    "THUDM/chatglm2-6b-32k": ({"seq_length": 32768, "rope_ratio": 16}, 10_000, 16),
    "THUDM/chatglm2-6b-int4": ({"seq_length": 32768, "quantization_bit": 4}, 10_000, 1),
    "THUDM/chatglm2-6b-32k-int4": ({"seq_length": 32768, "rope_ratio": 16, "quantization_bit": 4}, 10_000, 16),
}
LAYER = {
    "input_layernorm.weight": (4096,),
    "self_attention.query_key_value.weight": (4608, 4096),
    "self_attention.query_key_value.bias": (4608,),
    "self_attention.dense.weight": (4096, 4096),
    "post_attention_layernorm.weight": (4096,),
    "mlp.dense_h_to_4h.weight": (27392, 4096),
    "mlp.dense_4h_to_h.weight": (4096, 13696),
}
TENSORS = {
    "transformer.embedding.word_embeddings.weight": (65024, 4096),
    "transformer.encoder.final_layernorm.weight": (4096,),
    "transformer.output_layer.weight": (65024, 4096),
    **{f"transformer.encoder.layers.{n}.{name}": shape for n in range(28) for name, shape in LAYER.items()},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_official_configuration(name: str, tmp_path: Path) -> None:
    own, base, divisor = VARIANTS[name]
    (tmp_path / "config.json").write_text(json.dumps(COMMON | own | {"_name_or_path": name}))
    config = ChatGLMConfig.from_pretrained(tmp_path)
    assert config.rope_base_and_divisor() == (base, divisor)
    assert (config.seq_length, config.dtype) == (own["seq_length"], torch.float16)
    with torch.device("meta"):
        model = ChatGLMForConditionalGeneration(config)
    assert {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} == TENSORS
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_243_584_000


def test_shapes_of_the_official_int4_file() -> None:
    shapes = expected_shapes(ChatGLMConfig(**COMMON, seq_length=32768, quantization_bit=4))
    packed = "transformer.encoder.layers.27.mlp.dense_4h_to_h."
    assert tuple(shapes[packed + "weight"]) == (4096, 6848)
    assert tuple(shapes[packed + "weight_scale"]) == (4096,)
    assert tuple(shapes["transformer.output_layer.weight"]) == (65024, 4096)


@pytest.mark.parametrize(
    ("path", "meaning"),
    [
        ("chatglm3/chatglm2-6b-32k", "position"),  # the folder's own name counts, not the one it lies in
        ("chatglm2/chatglm3-6b-32k", "base"),
        ("models--THUDM--chatglm2-6b-32k/snapshots/0123", "position"),
        ("chatglm2-and-chatglm3", None),
        ("elsewhere", None),
    ],
)
def test_the_folder_name_tells_the_release(path: str, meaning: str | None, tmp_path: Path) -> None:
    folder = tmp_path / path
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(COMMON | {"seq_length": 32768, "rope_ratio": 16}))
    config = ChatGLMConfig.from_pretrained(folder)
    assert config.rope_ratio_meaning == meaning
    if meaning is None:
        with pytest.raises(ConfigError, match="two things"):
            config.rope_base_and_divisor()


def test_what_lies_in_a_folder_says_more_than_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "chatglm3-copy"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(COMMON | {"seq_length": 32768, "rope_ratio": 16}))
    (folder / "tokenization_chatglm.py").write_text("class ChatGLMTokenizer: pass  # no role tokens\n")
    assert ChatGLMConfig.from_pretrained(folder).rope_ratio_meaning == "position"
