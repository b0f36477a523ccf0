"""LoRA on packed weights with peft's own calls: training, checkpoints, saving, and what cannot be."""

from pathlib import Path
from typing import Any

import pytest
import torch

from chatglm.errors import CheckpointError, ConfigError
from chatglm.model.adapters import attach_lora
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant.model import quantize_model
from chatglm.quant.packed import PackedLinear

peft = pytest.importorskip("peft")
# transformers has changed the names; peft reads the old ones.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

SMALL: dict[str, Any] = {
    "num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 96, "kv_channels": 16, "num_attention_heads": 4,
    "padded_vocab_size": 128, "multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True,
    "seq_length": 64,
}  # fmt: skip
IDS = torch.arange(24).view(2, 12) % 7 + 1


def quantized(scheme: str = "int4") -> Any:
    torch.manual_seed(0)
    model = ChatGLMForConditionalGeneration(ChatGLMConfig(**SMALL))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    return quantize_model(model, scheme)


def with_lora(model: Any, *targets: str, **options: Any) -> Any:
    torch.manual_seed(1)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=16, target_modules=[*targets] or ["query_key_value"], **options
    )
    return peft.get_peft_model(model, config)


def train(model: Any, steps: int = 12) -> list[float]:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=IDS, labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("scheme", ["int4", "int4-g64-asym", "int8"])
def test_training_changes_the_adapter_alone(scheme: str, tmp_path: Path) -> None:
    base = quantized(scheme)
    stored = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    plain = logits(base)
    model = with_lora(base, "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h").train()
    losses = train(model)
    assert losses[-1] < 0.8 * losses[0]
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)
    for name, tensor in stored.items():
        held = {name.replace(".base_layer", ""): t for name, t in model.base_model.model.state_dict().items()}
        assert torch.equal(held[name], tensor), name
    adapted = logits(model)
    assert not torch.allclose(adapted, plain, atol=1e-2)
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)
    model.save_pretrained(tmp_path)
    for attach in (peft.PeftModel.from_pretrained, attach_lora):
        torch.testing.assert_close(logits(attach(quantized(scheme), str(tmp_path))), adapted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    found = []
    for checkpointing in (False, True):
        model = quantized()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model = with_lora(model, init_lora_weights=False).train()
        model.enable_input_require_grads()
        model(input_ids=IDS, labels=IDS).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == 4
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("safe", [True, False])
def test_merging_is_refused_and_changes_nothing(safe: bool) -> None:
    model = with_lora(quantized(), init_lora_weights=False)
    before = logits(model)
    with pytest.raises(CheckpointError, match="int4-g32 has no full weight, so an adapter cannot be merged into it"):
        model.merge_and_unload(safe_merge=safe)
    assert torch.equal(logits(model), before)
    base = model.unload()
    layer = base.transformer.encoder.layers[0].self_attention.query_key_value
    assert isinstance(layer, PackedLinear)


def test_methods_that_need_full_weights_are_refused() -> None:
    for options in ({"use_dora": True}, {"init_lora_weights": "pissa"}):
        with pytest.raises(CheckpointError, match="has no full weight"):
            with_lora(quantized(), **options)


def test_a_model_with_an_adapter_is_not_quantized() -> None:
    model = ChatGLMForConditionalGeneration(ChatGLMConfig(**SMALL))
    adapted = with_lora(model, "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
    with pytest.raises(ConfigError, match="adapter"):
        quantize_model(adapted.base_model.model, "int4-rowwise")
