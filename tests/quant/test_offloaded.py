"""Layers that accelerate keeps on the disk or brings one by one: `chat` says what `generate` says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from chatglm.demo import WEIGHTS
from chatglm.errors import ConfigError
from chatglm.quant.packed import PackedLinear
from chatglm.quant.scheme import QuantScheme

accelerate = pytest.importorskip("accelerate")

QUESTION = "法国的首都是哪里？"
TOKENS = 6


def on_disk(folder: Path, offload: Path, **options: Any) -> Any:
    around = ("embedding", "rotary_pos_emb", "encoder.final_layernorm", "output_layer")
    places = {f"transformer.{name}": "cpu" for name in around}
    places |= {f"transformer.encoder.layers.{index}": "disk" if 3 <= index <= 5 else "cpu" for index in range(6)}
    return AutoModel.from_pretrained(folder, device_map=places, offload_folder=offload, **options)


def with_buffers(folder: Path, offload: Path) -> Any:
    return on_disk(folder, offload, offload_buffers=True)


def one_by_one(folder: Path, offload: Path) -> Any:
    return accelerate.cpu_offload(AutoModel.from_pretrained(folder))


def all_on_disk(folder: Path, offload: Path) -> Any:
    return accelerate.disk_offload(AutoModel.from_pretrained(folder), offload, offload_buffers=True)


@pytest.mark.filterwarnings("ignore:Some parameters are on the meta device")
@pytest.mark.parametrize("scheme", [None, 4, "int4", "int8"])
@pytest.mark.parametrize("way", [on_disk, with_buffers, one_by_one, all_on_disk])
def test_chat_is_generate_and_harms_nothing(
    way: Callable[[Path, Path], Any], scheme: int | str | None, tmp_path: Path
) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(WEIGHTS)
    model: Any = AutoModel.from_pretrained(WEIGHTS)
    (model if scheme is None else model.quantize(scheme)).save_pretrained(tmp_path / "model")
    model = way(tmp_path / "model", tmp_path / "offload")
    inputs = tokenizer.build_chat_input(QUESTION, history=[])

    def generated() -> str:
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)[0, inputs["input_ids"].shape[1] :]
        text: str = tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    before, names = generated(), [(name, type(module)) for name, module in model.named_modules()]
    said = model.chat(tokenizer, QUESTION, do_sample=False, max_new_tokens=TOKENS)[0]
    assert said.strip() == before == generated()
    assert names == [(name, type(module)) for name, module in model.named_modules()]


@pytest.mark.parametrize("scheme", [4, "int4"])
def test_what_is_elsewhere_cannot_be_quantized_and_is_left_as_it_was(scheme: int | str, tmp_path: Path) -> None:
    model, tokenizer = one_by_one(WEIGHTS, tmp_path), AutoTokenizer.from_pretrained(WEIGHTS)
    with pytest.raises(ConfigError, match="is not in memory"):
        model.quantize(scheme)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    assert model.chat(tokenizer, QUESTION, do_sample=False, max_new_tokens=TOKENS)[0]


def test_a_weight_that_is_elsewhere_is_no_product_of_what_lies_in_memory() -> None:
    layer = PackedLinear.from_linear(torch.nn.Linear(32, 16), QuantScheme.parse("int4")).to("meta")
    with pytest.raises(ConfigError, match="the input is on cpu, the weight on meta"):
        layer(torch.ones(1, 32))
