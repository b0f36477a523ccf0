"""Labels: texts are told apart, what was learned is loaded by transformers too, and gives the same scores."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_data import golden_file
from safetensors.torch import load_file
from test_finetune import ALL, same
from tiny_runs import settings, train
from transformers import AutoModelForSequenceClassification

import chatglm
from chatglm.errors import CheckpointError, ConfigError, DataError
from chatglm.loading import load_tokenizer
from chatglm.train.check import check
from chatglm.train.classifier import load_classifier
from chatglm.train.merge import merge
from chatglm.train.trainer import AnswerTrainer
from chatglm.words import Words

KINDS = {"beta": "the dog ran", "alpha": "a cat slept", "gamma": "one bird sang"}


pytestmark = pytest.mark.usefixtures("light")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "rows.csv"
    rows = [f"{text} {number},{name}\n" for number in range(3) for name, text in KINDS.items()]
    file.write_text("sentence,kind\n" + "".join(rows))
    return file


def scores(model: Any, tokenizer: Any) -> torch.Tensor:
    """By texts of different lengths side by side."""
    tokenizer.padding_side = "right"
    with torch.no_grad():
        found: torch.Tensor = model(**tokenizer(list(KINDS.values()), padding=True, return_tensors="pt")).logits
    return found


@pytest.mark.parametrize("method", ["lora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dora", "sft"))])
def test_texts_are_told_apart_after_loading(method: str, base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {"targets": ALL, "learning_rate": 1e-2 if method != "sft" else 3e-3, "max_steps": 12}
    result = train(
        base, data, out, method=method, task="classify", columns="sentence,kind", eval_data=str(data), **options
    )
    assert result.metrics["eval_accuracy"] == 100
    model, tokenizer = load_classifier(out, device="cpu")
    assert model.config.id2label == {0: "alpha", 1: "beta", 2: "gamma"}
    found = scores(model, tokenizer)
    assert [model.config.id2label[index] for index in found.argmax(-1).tolist()] == list(KINDS)
    theirs = AutoModelForSequenceClassification.from_pretrained(out, num_labels=3, dtype=torch.float32)
    torch.testing.assert_close(scores(theirs.eval(), tokenizer), found, atol=1e-4, rtol=1e-4)
    if method == "lora":
        with pytest.raises(CheckpointError, match="made to give texts labels"):
            chatglm.load(out)  # it answers nothing
        merged = merge(base, out, tmp_path / "merged")
        again = AutoModelForSequenceClassification.from_pretrained(merged, dtype=torch.float32)
        assert again.config.id2label == model.config.id2label
        torch.testing.assert_close(scores(again.eval(), tokenizer), found, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "sft"])
def test_a_run_that_is_resumed_ends_as_one_that_was_not_stopped(
    method: str, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "method": method, "task": "classify", "columns": "sentence,kind", "max_steps": 4, "save_steps": 2,
        "batch_size": 2, "learning_rate": 1e-3,
    }  # fmt: skip
    train(base, data, tmp_path / "whole", **options)
    original = AnswerTrainer.training_step

    def killed(self: Any, *given: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return original(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(AnswerTrainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(base, data, tmp_path / "stopped", **options)
    train(base, data, tmp_path / "stopped", resume=True, **options)
    assert same(tmp_path / "whole", tmp_path / "stopped")


def test_the_head_gives_what_the_official_one_gives(tmp_path: Path) -> None:
    """A recorded official classifier, loaded by the way back."""
    folder = Path(shutil.copytree(golden_file("numerics/f_seqcls_single_label"), tmp_path / "official"))
    settings_file = folder / "config.json"
    told = json.loads(settings_file.read_text())
    settings_file.write_text(json.dumps({**told, "architectures": ["ChatGLMForSequenceClassification"]}))
    recorded = load_file(folder / "io.safetensors")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    given = {name: recorded[f"x.{name}"] for name in ("input_ids", "attention_mask", "position_ids")}
    with torch.no_grad():
        found = model(**given).logits
    torch.testing.assert_close(found, recorded["x.logits"], atol=3e-5, rtol=2e-5)


def test_rows_that_have_no_label_are_named(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    rows: list[Any] = [
        {"text": "one", "label": 10}, {"text": "two", "label": 9, "note": "n"}, {"text": " ", "label": 9},
        {"text": "x", "label": 0.5}, {"text": "x", "label": True}, {"label": 9}, 3, {"text": "long " * 30, "label": 9},
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text, good = check(str(file), load_tokenizer(base), 12, Words("en"), kind="labels")
    assert not good
    for part in (
        "labels: 9 2, 10 1",
        "-> 10",
        "line 3: its text",
        "line 4: its label is 0.5",
        "line 5",
        "no 'text'",
        "note",
    ):
        assert part in text
    measured = tmp_path / "b.jsonl"
    measured.write_text('{"text": "one", "label": 11}\n')
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    with pytest.raises(DataError, match="line 1: its label is '11'; those of the rows to learn are 9, 10"):
        train(base, file, tmp_path / "out", task="classify", eval_data=str(measured))  # fmt: skip
    measured.write_text('{"text": "one", "label": 11}\n{"text": "two", "label": "11"}\n')
    with pytest.raises(DataError, match="only '11'; there must be two"):
        train(base, measured, tmp_path / "other", task="classify")


def test_methods_that_give_no_labels_are_refused(base: Path) -> None:
    for message, options in (
        ("the method is 'dpo'; to classify", {"method": "dpo"}),
        ("the method is 'ptuning'", {"method": "ptuning"}),
        ("has full weights", {"quantize": "int4"}),
        ("packing is True, which has no meaning where the task is classify", {"packing": True}),
        ("task is 'sort'", {"task": "sort"}),
    ):
        with pytest.raises(ConfigError, match=message):
            settings(Path("b"), Path("d"), Path("o"), **{"task": "classify", **options})
    with pytest.raises(CheckpointError, match="a ChatGLMForSequenceClassification is needed"):
        load_classifier(base)
