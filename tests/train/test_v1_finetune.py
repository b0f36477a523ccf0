"""The first generation is tuned as the later ones: a LoRA and a prefix learn, are loaded again, and can be merged."""

import json
from pathlib import Path
from typing import Any

import pytest
from first_folder import first_folder

import chatglm
from chatglm.errors import ConfigError
from chatglm.train.finetune import finetune
from chatglm.train.merge import merge
from chatglm.train.settings import Settings

ROWS = [("你好", "很高兴见到你"), ("a", "b c d")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft")
    return first_folder(tmp_path_factory.mktemp("chatglm-6b"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    messages = [[{"role": "user", "content": asked}, {"role": "assistant", "content": said}] for asked, said in ROWS]
    path.write_text("\n".join(json.dumps({"messages": one}) for one in messages), encoding="utf-8")
    return path


def run(base: Path, data: Path, out: Path, **changed: Any) -> Path:
    options: dict[str, Any] = {"batch_size": 2, "max_steps": 30, "learning_rate": 2e-2, "save_steps": 1000} | changed
    finetune(Settings(base=str(base), data=str(data), out=str(out), device="cpu", **options))
    return out


def answers(model: Any, tokenizer: Any) -> list[str]:
    return [model.chat(tokenizer, asked, do_sample=False, max_new_tokens=12)[0] for asked, _ in ROWS]


@pytest.mark.slow
def test_a_lora_learns_and_can_be_merged(base: Path, data: Path, tmp_path: Path) -> None:
    out = run(base, data, tmp_path / "lora")
    learned = answers(*chatglm.load(base, adapter=out))
    assert learned == [said for _, said in ROWS]
    merge(base, out, tmp_path / "merged")
    assert answers(*chatglm.load(tmp_path / "merged")) == learned


def test_a_prefix_is_loaded_again(base: Path, data: Path, tmp_path: Path) -> None:
    out = run(base, data, tmp_path / "prefix", method="ptuning", prefix_length=4, max_steps=2)
    model, tokenizer = chatglm.load(base, adapter=out)
    assert model.config.pre_seq_len == 4
    assert answers(model, tokenizer)


def test_rows_of_several_examples_are_refused(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="packing"):
        run(base, data, tmp_path / "packed", packing=True)
