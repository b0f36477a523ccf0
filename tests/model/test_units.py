"""Single pieces of the network against recorded ones: rotary tables, rotation, RMSNorm, attention masks."""

import json
from typing import Any

import pytest
import torch
from golden_data import golden_file
from safetensors.torch import load_file
from transformers import DynamicCache
from transformers.masking_utils import create_causal_mask

from chatglm.model.config import ChatGLMConfig
from chatglm.model.layers import RMSNorm, RotaryEmbedding, apply_rotary

SPEC: dict[str, Any] = json.loads(golden_file("units/spec.json").read_text())["spec"]
TENSORS = load_file(golden_file("units/units.safetensors"))
DTYPES = {"float32": (torch.float32, 3e-6), "float16": (torch.float16, 2e-3), "bfloat16": (torch.bfloat16, 2e-2)}


def rotary(rotary_dim: int, variant: str, ratio: float | None) -> RotaryEmbedding:
    chatglm2 = variant.startswith("chatglm2")
    config = ChatGLMConfig(
        kv_channels=2 * rotary_dim,
        rope_ratio=ratio or 1,
        rope_ratio_meaning="position" if chatglm2 else "base",
        rope_precision="model" if chatglm2 else "float32",
    )
    return RotaryEmbedding(config)


@pytest.mark.parametrize("case", SPEC["ropes"], ids=lambda case: case["name"])
def test_rotary_tables(case: dict[str, Any]) -> None:
    dtype, tolerance = DTYPES[case["dtype"]]
    module = rotary(case["rotary_dim"], case["variant"], case["rope_ratio"])
    table = torch.stack(module(torch.tensor([case["positions"]]), dtype), dim=-1)[0, 0]
    torch.testing.assert_close(table, TENSORS[case["name"]], atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", DTYPES)
def test_rotation(name: str) -> None:
    dtype, tolerance = DTYPES[name]
    states = TENSORS["rotary.x"].to(dtype).permute(1, 2, 0, 3)  # recorded as [S, B, heads, D]
    cos, sin = rotary(states.shape[-1] // 2, "chatglm3", None)(TENSORS["rotary.positions"], dtype)
    rotated = apply_rotary(states, cos, sin).permute(2, 0, 1, 3)
    torch.testing.assert_close(rotated, TENSORS[f"rotary.out.{name}"], atol=4 * tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", DTYPES)
def test_rms_norm(name: str) -> None:
    dtype, tolerance = DTYPES[name]
    norm = RMSNorm(TENSORS["rms.weight"].shape[0], SPEC["eps"]).to(dtype)
    norm.weight.data = TENSORS["rms.weight"].to(dtype)
    torch.testing.assert_close(
        norm(TENSORS["rms.x"].to(dtype)).detach(), TENSORS[f"rms.out.{name}"], atol=tolerance, rtol=tolerance
    )


@pytest.mark.parametrize(
    ("name", "padding", "past"),
    [
        ("prefill_nopad", None, 0),
        ("prefill_pad", "mask.padding", 0),
        ("past_nopad", None, 2),
        ("past_pad", "mask.padding_past", 2),
        ("step_pad", "mask.padding_past", 5),
    ],
)
def test_masks(name: str, padding: str | None, past: int) -> None:
    """True is masked in the recorded ones. Rows of padding attend to everything there, so they are left out."""
    expected = TENSORS[f"mask.{name}"]
    batch, _, new, total = expected.shape
    config = ChatGLMConfig(num_layers=1, attn_implementation="eager")
    cache = DynamicCache()
    if past:
        cache.update(*torch.zeros(2, batch, 1, past, 4), 0)
    attention_mask = TENSORS[padding] if padding else torch.ones(batch, total, dtype=torch.long)
    mask = create_causal_mask(
        config=config,
        inputs_embeds=torch.zeros(batch, new, 8),
        attention_mask=attention_mask,
        past_key_values=cache,
        position_ids=torch.arange(past, total)[None],
    )
    masked = torch.zeros_like(expected) if mask is None else (mask < 0).expand_as(expected)
    real = attention_mask[:, -new:].bool()
    assert torch.equal(masked[:, 0][real], expected[:, 0][real])
