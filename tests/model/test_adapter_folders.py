"""Adapter folders that peft has written, loaded by transformers and by this package: the same model every way."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_folders import base_folder
from transformers import AutoModel, AutoModelForCausalLM

from chatglm.model.adapters import attach_lora
from chatglm.model.network import ChatGLMForConditionalGeneration

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
IDS = torch.arange(3, 30)[None]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "dora of every linear": {"use_dora": True, "target_modules": ["query_key_value", "dense", "dense_h_to_4h"]},
    "rank-stabilized": {"use_rslora": True},
    "with the head": {"modules_to_save": ["output_layer"]},
}


def base(folder: Path) -> Any:
    return ChatGLMForConditionalGeneration.from_pretrained(folder)


def loaded_after(folder: Path, adapter: Path) -> Any:
    model = base(folder)
    model.load_adapter(str(adapter))
    return model


WAYS: dict[str, Any] = {
    "AutoModel": lambda _, adapter: AutoModel.from_pretrained(adapter),
    "AutoModelForCausalLM, by another name": lambda _, adapter: AutoModelForCausalLM.from_pretrained(
        adapter, adapter_name="mine", device_map="cpu"
    ),
    "load_adapter": loaded_after,
    "peft": lambda folder, adapter: peft.PeftModel.from_pretrained(base(folder), adapter),
    "load": lambda folder, adapter: attach_lora(base(folder), adapter),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_of_loading_gives_the_trained_model(kind: str, tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    options = {"task_type": "CAUSAL_LM", "target_modules": ["query_key_value"], "r": 4} | KINDS[kind]
    trained = peft.get_peft_model(base(folder), peft.LoraConfig(**options))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
        expected = trained(IDS).logits
        assert not torch.allclose(expected, base(folder)(IDS).logits, atol=1e-3)
        trained.save_pretrained(tmp_path / "adapter")
        for way, load in WAYS.items():
            torch.testing.assert_close(load(folder, tmp_path / "adapter")(IDS).logits, expected, msg=way)
