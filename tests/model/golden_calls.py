"""Replays the calls recorded in `numerics/<case>/meta.json` on our network."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from golden_data import golden_file
from safetensors.torch import load_file

from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration, ChatGLMForSequenceClassification


@dataclass
class GoldenCase:
    """One recorded case: model, inputs, outputs and the caches of the calls made so far."""

    name: str
    meta: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    model: torch.nn.Module
    caches: dict[str, Any] = field(default_factory=dict)

    def arguments(self, call: dict[str, Any]) -> dict[str, Any]:
        names = ("input_ids", "position_ids", "attention_mask", "labels")
        given = {name: self.tensors[call[name]] for name in names if name in call}
        if "past_from" in call:
            given["past_key_values"] = copy.deepcopy(self.caches[call["past_from"]])  # ours grows in place
        if call.get("return_last_logit"):
            given["return_last_logit"] = True
        return given


def load_case(name: str, attention: str = "eager") -> GoldenCase:
    folder = golden_file(f"numerics/{name}")
    meta = json.loads((folder / "meta.json").read_text())
    source = golden_file(f"numerics/{meta['weights_from']}") if "weights_from" in meta else folder
    config = golden_config(source, meta, attention)
    kind = ChatGLMForSequenceClassification if meta["task"] == "seq_cls" else ChatGLMForConditionalGeneration
    model = kind(config).eval()
    weights = load_file(source / "model.safetensors")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not missing
    assert all("inv_freq" in key or "output_layer" in key for key in unexpected), unexpected
    return GoldenCase(name, meta, load_file(folder / "io.safetensors"), model.to(getattr(torch, meta["dtype"])))


def golden_config(source: Path, meta: dict[str, Any], attention: str) -> ChatGLMConfig:
    overrides = {key: value for key, value in meta.get("config_overrides", {}).items() if key != "torch_dtype"}
    if meta["variant"].startswith("chatglm2"):
        # The recorded ChatGLM2 code computes angles in the model's dtype.
        overrides |= {"rope_precision": "model", "rope_ratio_meaning": "position"}
    else:
        overrides |= {"rope_ratio_meaning": "base"}
    return ChatGLMConfig.from_pretrained(source, attn_implementation=attention, **overrides)
