"""The official configuration files, key by key, and files of our own."""

from pathlib import Path
from typing import Any

import pytest

from chatglm.cli import main
from chatglm.errors import ConfigError
from chatglm.train.official import read_configuration
from chatglm.train.settings import Settings

# The keys and values of the official files; only what differs between them is filled in.
OFFICIAL = """\
data_config:
  train_file: train.json
  val_file: dev.json
  test_file: dev.json
  num_proc: 16
max_input_length: 256
max_output_length: 512
training_args:
  # see `transformers.Seq2SeqTrainingArguments`
  output_dir: ./output
  max_steps: 3000
  learning_rate: 5e-5
  per_device_train_batch_size: 4
  dataloader_num_workers: 16
  remove_unused_columns: false
  save_strategy: steps
  save_steps: 500
  log_level: info
  logging_strategy: steps
  logging_steps: 10
  per_device_eval_batch_size: 16
  evaluation_strategy: steps
  eval_steps: 500
  predict_with_generate: true
  generation_config:
    max_new_tokens: 512
"""
LORA = "  use_cpu: false\npeft_config:\n  peft_type: LORA\n  task_type: CAUSAL_LM\n  r: 8\n  lora_alpha: 32\n  lora_dropout: 0.1\n"  # noqa: E501
PTUNING = (
    "  use_cpu: false\npeft_config:\n  peft_type: PREFIX_TUNING\n  task_type: CAUSAL_LM\n  num_virtual_tokens: 128\n"
)
SFT = "  deepspeed: ds_zero_3.json\n"
METHODS: dict[str, dict[str, Any]] = {
    LORA: {"method": "lora", "rank": 8, "alpha": 32, "dropout": 0.1},
    PTUNING: {"method": "ptuning", "prefix_length": 128},
    SFT: {"method": "sft"},
}


def written(folder: Path, text: str) -> Path:
    file = folder / "config.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("kind", METHODS, ids=["lora", "ptuning_v2", "sft"])
def test_the_official_files_are_read_as_they_are(kind: str, tmp_path: Path) -> None:
    (tmp_path / "ds_zero_3.json").write_text("{}")
    folder = tmp_path / "AdvertiseGen"
    folder.mkdir()
    found = read_configuration(written(tmp_path, OFFICIAL + kind), str(folder))
    settings = Settings(**found.settings)
    expected = {
        "data": str(folder / "train.json"), "eval_data": str(folder / "dev.json"),
        "out": "./output", "max_length": 769, "max_steps": 3000, "learning_rate": 5e-5, "batch_size": 4,
        "save_steps": 500, "log_steps": 10, "eval_batch_size": 16, "eval_steps": 500, "eval_answers": 50,
        "eval_tokens": 512, **METHODS[kind],
    }  # fmt: skip
    assert {name: getattr(settings, name) for name in expected} == expected
    assert dict(settings.trainer) == ({"deepspeed": str(tmp_path / "ds_zero_3.json")} if kind is SFT else {})
    named = " ".join(found.notes)
    rows = read_configuration(tmp_path / "config.yaml", "rows.jsonl")
    assert not {"data", "eval_data"} & set(rows.settings)
    assert "data_config.train_file: the rows are those of rows.jsonl" in rows.notes
    for key in ("num_proc", "test_file", "dataloader_num_workers", "remove_unused_columns", "log_level"):
        assert key in named
    assert ("task_type" in named) == (kind is not SFT)


def test_keys_that_are_not_known_are_errors_and_others_go_on_to_the_trainer(tmp_path: Path) -> None:
    found = read_configuration(written(tmp_path, OFFICIAL + "  adam_beta2: 0.95\n  fsdp: full_shard\n"))
    assert found.settings["trainer"] == {"adam_beta2": 0.95, "fsdp": "full_shard"}
    for text, message in (
        ("  lerning_rate: 3\n", "training_args has the key 'lerning_rate', which is not known; did you mean"),
        ("data_confg: {}\n", "has the key 'data_confg', which is not known; did you mean 'data_config'"),
        ("peft_config: {peft_type: IA3}\n", "peft_type is 'IA3'; it must be LORA or PREFIX_TUNING"),
        ("peft_config: {peft_type: LORA, rank: 3}\n", "peft_config has the key 'rank'"),
        ("a: [\n", "not valid YAML"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_configuration(written(tmp_path, OFFICIAL + text))


def test_a_file_of_our_own_and_the_command_line_decide_in_this_order(tmp_path: Path, capsys: Any) -> None:
    file = written(tmp_path, "data: rows.jsonl\nout: o\nmethod: rslora\nrank: 4\n")
    assert read_configuration(file).settings == {"data": "rows.jsonl", "out": "o", "method": "rslora", "rank": 4}
    assert main(["finetune", "--config", str(file), "--rank", "0"]) == 1
    assert "rank is 0" in capsys.readouterr().err
    assert main(["finetune", "--data", "rows.jsonl"]) == 2
    assert "--out is missing" in capsys.readouterr().err
