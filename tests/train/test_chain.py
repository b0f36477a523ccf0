"""Tuned, loaded, merged, quantized, exported: each step says what the one before said."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import ANSWERS, tiny_base, train, write_rows

import chatglm
from chatglm.engine.request import SamplingParams
from chatglm.folders.convert import convert
from chatglm.folders.quantize import quantize_folder
from chatglm.own_engine import add_lora
from chatglm.train.merge import merge

ALL = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")


def answers(model: Any, tokenizer: Any) -> dict[str, str]:
    return {asked: model.chat(tokenizer, asked, do_sample=False, max_new_tokens=12)[0] for asked in ANSWERS}


def scores(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 35)[None]).logits  # type: ignore[no-any-return]


def served(base: Path, adapter: Path) -> dict[str, str]:
    """The answers of an engine that knows the adapter beside its base, as a server has it."""
    model, tokenizer = chatglm.load(base)
    engine = chatglm.engine_for(model, tokenizer)
    add_lora(engine, "tuned", adapter)
    params = SamplingParams(temperature=0, max_tokens=12)
    found = {}
    for asked in ANSWERS:
        prompt = tokenizer.render([chatglm.Message("user", asked)]).ids
        done = engine.wait(engine.submit(prompt, params, adapter="tuned"))
        found[asked] = str(tokenizer.decode(done.token_ids, skip_special_tokens=True)).strip()
    return found


def test_the_chain_from_tuning_to_gguf(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    from chatglm.folders.gguf import to_gguf

    base, data = tiny_base(tmp_path / "base"), write_rows(tmp_path / "rows.jsonl")
    train(base, data, tmp_path / "tuned", max_steps=60, learning_rate=2e-2, targets=ALL)
    tuned, tokenizer = chatglm.load(base, adapter=tmp_path / "tuned")
    assert answers(tuned, tokenizer) == ANSWERS
    assert served(base, tmp_path / "tuned") == ANSWERS
    merged, _ = chatglm.load(merge(base, tmp_path / "tuned", tmp_path / "merged"))
    assert answers(merged, tokenizer) == ANSWERS
    torch.testing.assert_close(scores(merged), scores(tuned), atol=1e-4, rtol=1e-4)  # the rounding of one sum
    quantized, _ = chatglm.load(quantize_folder(tmp_path / "merged", tmp_path / "int8", "int8"))
    assert answers(quantized, tokenizer) == ANSWERS
    apart = (scores(quantized) - scores(merged)).norm() / scores(merged).norm()
    assert apart < 0.1  # 8 bits a weight and an activation, in rows of 64
    glm = convert(tmp_path / "merged", tmp_path / "glm", to="glm")
    file = to_gguf(tmp_path / "merged", tmp_path / "merged.gguf", dtype="f32")
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(file).tensors}
    expected = merged.transformer.output_layer.weight
    assert torch.equal(torch.from_numpy(stored["output.weight"].copy()), expected)
    from transformers import AutoModelForCausalLM

    torch.testing.assert_close(scores(AutoModelForCausalLM.from_pretrained(glm)), scores(merged), atol=1e-4, rtol=1e-4)
