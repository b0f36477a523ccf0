"""Runs: every method learns, is written and loaded again; a run that was stopped goes on as if it had not."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import ANSWERS, settings, train, write_rows

import chatglm
from chatglm.errors import CheckpointError, ConfigError, DataError, TrainingError
from chatglm.train.merge import merge
from chatglm.train.trainer import AnswerTrainer, last_checkpoint

ALL = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"targets": ALL, "learning_rate": 2e-2},
    "rslora": {"targets": ALL, "learning_rate": 1e-2},
    "dora": {"targets": ALL, "learning_rate": 2e-2},
    "qlora": {"targets": ALL, "learning_rate": 2e-2},
    "ptuning": {"prefix_length": 16, "learning_rate": 0.05},
    "ptuning with projection": {"prefix_length": 16, "prefix_projection": True, "learning_rate": 3e-3},
    "sft": {"learning_rate": 5e-3},
}
STEPS = 60


pytestmark = pytest.mark.usefixtures("light")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


def answers(model: Any, tokenizer: Any) -> dict[str, str]:
    return {asked: model.chat(tokenizer, asked, do_sample=False, max_new_tokens=12)[0] for asked in ANSWERS}


def logits(model: Any, rows: int = 2) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(3, 3 + 8 * rows).view(rows, 8)).logits
    return found


SLOW = {"lora", "rslora", "dora", "ptuning with projection"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in METHODS])
def test_eight_rows_are_learned_by_heart_and_answered_after_loading(
    name: str, base: Path, data: Path, tmp_path: Path
) -> None:
    out, wanted = tmp_path / "out", ANSWERS
    if name.startswith("ptuning"):  # in front of random weights a prefix can learn one answer, not to tell questions
        wanted = dict.fromkeys(ANSWERS, "one")
        data = write_rows(tmp_path / "rows.jsonl", wanted)
    train(base, data, out, method=name.split()[0], max_steps=STEPS, **METHODS[name])
    quantize = "int4" if name == "qlora" else None
    model, tokenizer = chatglm.load(out, quantize=quantize)  # the base is found by the adapter
    assert answers(model, tokenizer) == wanted
    if name.startswith("ptuning"):
        assert (out / "prefix.safetensors").stat().st_size < 200_000
        model, tokenizer = chatglm.load(base, adapter=out)
        assert answers(model, tokenizer) == wanted
    if name in ("lora", "dora", "rslora") or name.startswith("ptuning"):
        merged, _ = chatglm.load(merge(base, out, tmp_path / "merged"))
        torch.testing.assert_close(logits(merged), logits(model), atol=1e-4, rtol=1e-4)
    assert (out / "manifest.json").is_file()
    if name == "sft":  # a whole model has the files of its base
        told = [json.loads((folder / "generation_config.json").read_text()) for folder in (base, out)]
        assert told[0].get("bos_token_id") == told[1].get("bos_token_id")


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    names = ("adapter_model.safetensors", "prefix.safetensors", "model.safetensors")
    return load_file(next(out / name for name in names if (out / name).is_file()))


def same(first: Path, second: Path) -> bool:
    one, other = weights_of(first), weights_of(second)
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


RESUMED = {
    "lora": {"method": "lora", "learning_rate": 1e-2, "dropout": 0.2, "batch_size": 3},
    "packed": {"method": "lora", "dropout": 0.2, "batch_size": 1, "packing": True, "max_length": 30, "accumulation": 2},
    "ptuning": {"method": "ptuning", "prefix_length": 4, "batch_size": 3},
    "sft": {"method": "sft", "batch_size": 3, "schedule": "cosine", "warmup_steps": 2},
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("packed", "ptuning"))) for name in RESUMED]
)
def test_a_run_that_is_resumed_ends_as_one_that_was_not_stopped(
    name: str, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {**RESUMED[name], "max_steps": 6, "save_steps": 2}
    train(base, data, tmp_path / "whole", **options)
    original = AnswerTrainer.training_step

    def killed(self: Any, *given: Any) -> Any:
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return original(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(AnswerTrainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(base, data, tmp_path / "stopped", **options)
    checkpoint = last_checkpoint(tmp_path / "stopped")
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-4"
    train(base, data, tmp_path / "stopped", resume=True, **options)
    assert same(tmp_path / "whole", tmp_path / "stopped")
    histories = [json.loads((tmp_path / run / "manifest.json").read_text())["result"] for run in ("whole", "stopped")]
    assert [entry["loss"] for entry in histories[0]["history"]] == [entry["loss"] for entry in histories[1]["history"]]


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from tiny_runs import train
import os, signal, torch
torch.set_num_threads(1)
if {place!r} is not None:
    import chatglm.train.methods as methods
    save = methods.save
    def dying(*given):
        save(*given)
        if "checkpoint-4" in str(given[1]):
            os.kill(os.getpid(), signal.SIGKILL)
    methods.save = dying
train(Path({base!r}), Path({data!r}), Path({out!r}), resume={resume!r}, **{options!r})
"""


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    base: Path, data: Path, tmp_path: Path, python: list[str]
) -> None:
    options: dict[str, Any] = {"max_steps": 6, "save_steps": 2, "learning_rate": 1e-2, "dropout": 0.1}

    def run(out: Path, place: str | None, resume: bool = False) -> int:
        program = KILLED.format(
            paths=[str(Path(__file__).parent), str(Path(__file__).parents[1])], place=place, base=str(base),
            data=str(data), out=str(out), resume=resume, options=options,
        )  # fmt: skip
        file = tmp_path / "program.py"
        file.write_text(program)
        return subprocess.run([*python, str(file)], capture_output=True, timeout=300).returncode

    assert run(tmp_path / "whole", None) == 0
    assert run(tmp_path / "killed", "saving") in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert [path.name for path in (tmp_path / "killed").glob("checkpoint-*")] == ["checkpoint-2"]
    assert run(tmp_path / "killed", None, resume=True) == 0
    assert same(tmp_path / "whole", tmp_path / "killed")


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = AnswerTrainer.compute_loss

    def poisoned(self: Any, *given: Any, **named: Any) -> Any:
        loss = original(self, *given, **named)
        return loss * math.nan if self.state.global_step == 3 else loss

    monkeypatch.setattr(AnswerTrainer, "compute_loss", poisoned)
    with pytest.raises(TrainingError, match=r"the loss is nan in step 4; .*checkpoint-2 holds the weights of before"):
        train(base, data, tmp_path / "out", save_steps=2, max_steps=6)
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(tmp_path / "out" / "checkpoint-2").values())


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = AnswerTrainer._save_optimizer_and_scheduler

    def full(self: Any, folder: str) -> None:
        if self.state.global_step == 4:
            raise OSError(28, "No space left on device")
        original(self, folder)

    monkeypatch.setattr(AnswerTrainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(TrainingError, match=r"step 4 cannot be written: .*No space left.*checkpoint-2 is whole"):
        train(base, data, tmp_path / "out", save_steps=2, max_steps=6)
    assert not list((tmp_path / "out").glob(".part*"))


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_few_rows_to_measure_on(rows: int, base: Path, data: Path, tmp_path: Path) -> None:
    measured = write_rows(tmp_path / "dev.jsonl", dict(list(ANSWERS.items())[:rows]))
    result = train(base, data, tmp_path / "out", eval_data=str(measured), eval_steps=2, max_steps=2)
    if rows:
        assert result.metrics["eval_perplexity"] == pytest.approx(math.exp(result.metrics["eval_loss"]))
    else:
        assert result.metrics == {}


def test_packing_and_accumulation_change_no_gradient(base: Path, data: Path, tmp_path: Path) -> None:
    """One step over all rows is the same however they are laid."""
    once = {"max_steps": 1, "learning_rate": 1e-2, "optimizer": "sgd", "clip": 1e9}
    train(base, data, tmp_path / "plain", **once)
    train(base, data, tmp_path / "apart", **once, **{"batch_size": 2, "accumulation": 4})
    train(base, data, tmp_path / "packed", **once, packing=True, max_length=200)
    plain = weights_of(tmp_path / "plain")
    for other in ("apart", "packed"):
        for name, tensor in weights_of(tmp_path / other).items():
            torch.testing.assert_close(tensor, plain[name], atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_weight(base: Path, data: Path, tmp_path: Path) -> None:
    for method in ("lora", "sft"):
        for name, checkpointing in (("plain", False), ("again", True)):
            train(base, data, tmp_path / method / name, method=method, checkpointing=checkpointing, learning_rate=1e-3)
        plain = weights_of(tmp_path / method / "plain")
        for name, tensor in weights_of(tmp_path / method / "again").items():
            torch.testing.assert_close(tensor, plain[name], atol=1e-5, rtol=1e-4)


def test_what_is_wrong_is_said_before_anything_is_trained(base: Path, data: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "response": "b"}\n{"prompt": \n')
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    for error, message, options in (
        (DataError, r"bad.jsonl, line 2: it is not JSON", {"data": bad}),
        (DataError, "holds no row that can be learned from", {"data": empty}),
        (ConfigError, "targets may be: dense, ", {"targets": ("attention",)}),
        (ConfigError, "holds no run to resume", {"resume": True}),
        (ConfigError, r"needs about .* GB on cpu .*--skip-memory-check", {"batch_size": 10**7}),
    ):
        with pytest.raises(error, match=message):
            train(base, Path(options.pop("data", data)), tmp_path / "out", **options)
    assert train(base, bad, tmp_path / "out", skip_bad_rows=True, max_steps=1).steps == 1
    with pytest.raises(ConfigError, match="holds a run already"):
        train(base, data, tmp_path / "out")
    for message, options in (
        ("begun with learning_rate None", {"learning_rate": 1.0}),
        ("begun with other data", {"data": data}),
    ):
        with pytest.raises(ConfigError, match=message):
            train(base, options.pop("data", bad), tmp_path / "out", resume=True, skip_bad_rows=True, **options)


def test_an_adapter_or_prefix_of_another_base_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    for method in ("lora", "ptuning"):
        train(base, data, tmp_path / method, method=method, max_steps=1, prefix_length=4)
        with pytest.raises(CheckpointError, match="expected|does not have"):
            chatglm.load(None, adapter=tmp_path / method)


@pytest.mark.slow
def test_two_processes_train_as_one(base: Path, data: Path, tmp_path: Path) -> None:
    """One more process and half the batch are the same step."""
    options: dict[str, Any] = {"max_steps": 3, "learning_rate": 1e-2, "eval_data": str(data), "eval_steps": 3}
    one = train(base, data, tmp_path / "one", **options, batch_size=4)
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    program = tmp_path / "program.py"
    program.write_text(
        KILLED.format(paths=paths, place=None, base=str(base), data=str(data), out=str(tmp_path / "two"), resume=False,
                      options={**options, "batch_size": 2})
    )  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    done = subprocess.run(command, capture_output=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr.decode()
    for name, tensor in weights_of(tmp_path / "two").items():
        torch.testing.assert_close(tensor, weights_of(tmp_path / "one")[name], atol=1e-6, rtol=1e-5)
    told = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert told["processes"] == 2
    assert told["result"]["metrics"]["eval_loss"] == pytest.approx(one.metrics["eval_loss"], rel=1e-5)


@pytest.mark.slow
def test_processes_that_divide_the_model_train_as_one(base: Path, data: Path, tmp_path: Path) -> None:
    """FSDP2, and its checkpoints. accelerate divides among accelerators only; here it is told that these are some."""
    told = """
import accelerate.state as states
begin = states.AcceleratorState.__init__
def begun(self, *given, fsdp_plugin=None, **named):
    begin(self, *given, fsdp_plugin=fsdp_plugin, **named)
    plugin = fsdp_plugin or self.__dict__.get("fsdp_plugin")
    if plugin is not None:
        self.distributed_type, self.fsdp_plugin = states.DistributedType.FSDP, plugin
states.AcceleratorState.__init__ = begun
"""
    sharded = {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": ["GLMBlock"]}}
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    for method in ("sft", "lora"):
        options: dict[str, Any] = {"method": method, "learning_rate": 1e-2, "save_steps": 2, "eval_data": str(data)}
        one = train(base, data, tmp_path / method / "one", **options, max_steps=3, batch_size=4)
        for steps, resume in ((2, False), (3, True)) if method == "sft" else ((3, False),):
            program = tmp_path / "program.py"
            given = {**options, "max_steps": steps, "batch_size": 2, "trainer": sharded}
            program.write_text(
                told + KILLED.format(paths=paths, place=None, base=str(base), data=str(data),
                                     out=str(tmp_path / method / "two"), resume=resume, options=given)
            )  # fmt: skip
            command = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node=2",
                str(program),
            ]
            done = subprocess.run(command, capture_output=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
            assert done.returncode == 0, done.stderr.decode()
        whole = weights_of(tmp_path / method / "one")
        for name, tensor in weights_of(tmp_path / method / "two").items():
            # The gradient of the keys' bias is 0; what is rounded there Adam makes whole steps of.
            if not name.endswith("query_key_value.bias"):
                torch.testing.assert_close(tensor, whole[name], atol=1e-4, rtol=1e-3, msg=name)
        found = json.loads((tmp_path / method / "two" / "manifest.json").read_text())["result"]["metrics"]["eval_loss"]
        assert found == pytest.approx(one.metrics["eval_loss"], rel=1e-4)


def test_what_cannot_run_here_is_said(base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sharded = {"trainer": {"fsdp": True}}
    for message, options in (
        ("the optimizer adamw_bnb_8bit needs the package bitsandbytes", {"optimizer": "adamw_bnb_8bit"}),
        ("training_args.deepspeed needs the package deepspeed", {"trainer": {"deepspeed": "ds.json"}}),
        ("fsdp only works in distributed training", sharded),
        ("WandbCallback requires wandb", {"trainer": {"report_to": "wandb"}}),
        ("adam_w is not a valid OptimizerNames", {"optimizer": "adam_w"}),
    ):
        if not (package := re.search("bitsandbytes|deepspeed|wandb", message)) or not find_spec(package[0]):
            with pytest.raises(ConfigError, match=message):
                train(base, data, tmp_path / "out", **options)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="divides a model among accelerators only; the device is cpu"):
        train(base, data, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of tensorboard
def test_tensorboard_is_told_the_losses(base: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(base, data, tmp_path / "out", eval_data=str(data), eval_steps=2)
    [file] = (tmp_path / "out").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("eval/loss")] == [2, 4]


def test_settings_are_checked() -> None:
    for message, options in (
        ("method is 'lara'", {"method": "lara"}),
        ("batch_size is 0; it must be a whole number, at least 1", {"batch_size": 0}),
        ("learning_rate is -1", {"learning_rate": -1}),
        ("dropout is 1.5", {"dropout": 1.5}),
        ("dora needs full weights", {"method": "dora", "quantize": "int4"}),
        ("sft changes the weights", {"method": "sft", "quantize": "int4"}),
        ("new weights are all trained", {"fresh": True}),
    ):
        with pytest.raises(ConfigError, match=message):
            settings(Path("b"), Path("d"), Path("o"), **options)


def test_only_numbered_folders_are_checkpoints(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best", "checkpoint-"):
        (tmp_path / name).mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
