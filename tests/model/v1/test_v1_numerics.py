"""The first generation gives the numbers of the official code: every recorded call, replayed."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_v1 import golden_cases, golden_file
from safetensors.torch import load_file

from chatglm.model.v1.config import ChatGLM1Config
from chatglm.model.v1.network import ChatGLM1ForConditionalGeneration

INPUTS = ("input_ids", "position_ids", "attention_mask", "labels", "inputs_embeds")


def load(source: Path, meta: dict[str, Any], attention: str) -> ChatGLM1ForConditionalGeneration:
    config = ChatGLM1Config.from_pretrained(
        source,
        attn_implementation=attention,
        rope_precision="float32" if meta["dtype"] == "float32" else "model",
        tie_word_embeddings=False,
        dtype="float32",
    )
    model = ChatGLM1ForConditionalGeneration(config).eval()
    missing, unexpected = model.load_state_dict(load_file(source / "model.safetensors"), strict=False)
    assert not missing
    assert all("inv_freq" in name for name in unexpected)
    if "loss_grads" in str(source) or "prefix" in str(source):
        model.lm_head.weight = model.transformer.word_embeddings.weight
    return model.to(getattr(torch, meta["dtype"]))


class Case:
    def __init__(self, name: str, attention: str) -> None:
        folder = golden_file(f"numerics/{name}")
        self.meta = json.loads((folder / "meta.json").read_text())
        self.tensors = load_file(folder / "io.safetensors")
        self.model = load(golden_file(f"numerics/{self.meta.get('weights_from', name)}"), self.meta, attention)
        self.caches: dict[str, Any] = {}
        self.tolerance = self.meta["tolerance"]

    def replay(self, call: dict[str, Any]) -> None:
        given = {key: self.tensors[call[key]] for key in INPUTS if key in call}
        if "past_from" in call:
            given["past_key_values"] = copy.deepcopy(self.caches[call["past_from"]])
        given |= {"use_cache": call["use_cache"], "output_attentions": call.get("output_attentions", False)}
        if "error" in call:
            with pytest.raises((ValueError, AttributeError)):
                self.model(**given)
            return
        with torch.set_grad_enabled("grads" in call):
            found = self.model(**given, output_hidden_states=True)
        self.caches[call["name"]] = found.past_key_values
        self.compare(call["name"], found)
        if "grads" in call:
            self.model.zero_grad()
            found.loss.backward()
            parameters = dict(self.model.named_parameters())
            for name in call["grads"]:
                self.close(f"{call['name']}.grad.{name}", parameters[name].grad)

    def compare(self, call: str, found: Any) -> None:
        for key in [key for key in self.tensors if key.startswith(f"{call}.")]:
            kind, _, rest = key.removeprefix(f"{call}.").partition(".")
            if kind == "logits":
                self.close(key, found.logits)
            elif kind == "loss":
                self.close(key, found.loss.reshape(1))
            elif kind == "hidden_states":
                self.close(key, found.hidden_states[int(rest)].transpose(0, 1), "hidden_states_atol")
            elif kind == "past_key_values":
                layer, part = rest.split(".")
                held = found.past_key_values.layers[int(layer)]
                self.close(key, (held.keys if part == "key" else held.values).permute(2, 0, 1, 3))
            elif kind == "attentions":
                self.close(key, found.attentions[int(rest)].flatten(0, 1))

    def close(self, key: str, found: torch.Tensor, atol: str = "atol") -> None:
        tolerance = {"rtol": self.tolerance["rtol"], "atol": self.tolerance.get(atol, self.tolerance["atol"])}
        expected = self.tensors[key]
        torch.testing.assert_close(
            found.to(expected.dtype), expected, **tolerance, equal_nan=True, msg=lambda text: f"{key}: {text}"
        )


CASES = [(name, "eager") for name in golden_cases("numerics") if name != "i_tie"]
CASES += [(name, "sdpa") for name in ("a_base", "b_masks", "d_left_padded", "e_prefix", "g_float16")]


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_every_recorded_call(name: str, attention: str) -> None:
    case = Case(name, attention)
    for call in case.meta["calls"]:
        if attention == "sdpa" and call.get("output_attentions"):
            call["output_attentions"] = False
            case.tensors = {key: value for key, value in case.tensors.items() if ".attentions." not in key}
        case.replay(call)


def test_the_output_layer_is_the_embedding(tmp_path: Path) -> None:
    source = golden_file("numerics/i_tie")
    io = load_file(source / "io.safetensors")
    model = ChatGLM1ForConditionalGeneration.from_pretrained(source)
    with torch.no_grad():
        found = model(input_ids=io["direct.input_ids"]).logits
    torch.testing.assert_close(found, io["from_pretrained.logits"], atol=3e-5, rtol=2e-5)
