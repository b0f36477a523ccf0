"""`chatglm pretrain`: from nothing, in packed rows, by the clock."""

import json
from pathlib import Path

import pytest
from tiny_runs import tiny_base

import chatglm
from chatglm.cli import main


@pytest.mark.parametrize("fresh", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_text_is_learned_and_the_run_ends_in_order_and_goes_on(fresh: bool, tmp_path: Path) -> None:
    base, text, out = tiny_base(tmp_path / "base"), tmp_path / "text.txt", tmp_path / "out"
    text.write_text("one two three four five six seven\n\nonce upon a time\n" * 5)
    options = ["--device", "cpu", "--max-length", "40", "--batch-size", "2", "--max-steps", "12", "--log-steps", "1"]
    command = ["pretrain", str(base), "--data", str(text), "--out", str(out), *options, "--warmup-steps", "2"]
    command += ["--learning-rate", "0.005", "--threads", "1", *(["--fresh"] if fresh else [])]
    assert main([*command, "--max-hours", "0.0000001"]) == 0
    told = json.loads((out / "manifest.json").read_text())["result"]
    assert (told["steps"], told["finished"]) == (1, False)
    assert main(["pretrain", "--out", str(out), "--max-hours", "1", "--resume"]) == 0  # the rest is known
    told = json.loads((out / "manifest.json").read_text())["result"]
    assert (told["steps"], told["finished"]) == (12, True)
    losses = [entry["loss"] for entry in told["history"]]
    assert losses[-1] < losses[0] - 1
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    model, tokenizer = chatglm.load(out)
    assert model.config.pre_seq_len is None
    assert tokenizer.decode(tokenizer("once upon")["input_ids"][2:]) == "once upon"
