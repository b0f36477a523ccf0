"""lm-evaluation-harness gives every item of the exported tasks the score that `chatglm evaluate` gives it, offline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripted_runs import DATA, evaluate

import chatglm
from chatglm.errors import UsageError
from chatglm.evaluate.folder import read_items
from chatglm.evaluate.harness_tasks import export
from chatglm.evaluate.local import LocalModel
from chatglm.evaluate.run import Plan
from chatglm.evaluate.tasks import named


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    for tasks in ("needle", "ceval:two-pass", "bfcl"):
        with pytest.raises(UsageError, match="cannot"):
            export(Plan(named(tasks), DATA), tmp_path)


def test_files_for_each_way_to_ask(tmp_path: Path) -> None:
    told = export(Plan(named("mmlu,longbench"), DATA), tmp_path)
    assert "chatglm_mmlu_letters: 6 items\n" in told
    assert "chatglm_longbench_official_1: 15 items (with --apply_chat_template)\n" in told
    assert len(list(tmp_path.glob("*.yaml"))) == len(list(tmp_path.glob("*.jsonl"))) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the harness and what it imports
def test_both_ways_give_every_item_the_same_score(tmp_path: Path) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    from chatglm.evaluate.harness import register

    loaded = chatglm.load(dtype="float32", device="cpu")
    tasks = "gsm8k:strict,bbh,mmlu,mmlu:letters-bare,ceval,cmmlu:first-letter,agieval:written"
    ours = tmp_path / "ours"
    evaluate(ours, tasks, LocalModel(*loaded, "embedded"))
    names = [line.partition(":")[0] for line in export(Plan(named(tasks), DATA), tmp_path / "theirs").splitlines()]
    manager = TaskManager(include_path=str(tmp_path / "theirs"), include_defaults=False)
    results = lm_eval.simple_evaluate(
        model=register()(loaded=loaded), tasks=names, task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    theirs = {(name, row["doc"]["id"]): row["score"] for name, rows in results["samples"].items() for row in rows}
    found = {
        (f"chatglm_{name.replace('.', '_').replace('-', '_')}", key): row["score"]
        for name, rows in read_items(ours).items()
        for key, row in rows.items()
    }
    by_item = {(name.rstrip("_0123456789"), key): score for (name, key), score in theirs.items()}
    assert by_item == found
    assert "chatglm_grading" in sys.modules or found


@pytest.mark.slow
def test_lm_eval_itself_knows_the_model_where_tasks_are_named_as_files(tmp_path: Path, python: list[str]) -> None:
    pytest.importorskip("lm_eval")
    export(Plan(named("mmlu"), DATA), tmp_path / "tasks")
    command = [*python, "-m", "lm_eval", "run", "--model", "chatglm", "--model_args", "pretrained=embedded"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [*command, "--tasks", str(tmp_path / "tasks" / "chatglm_mmlu_letters.yaml"), "--output_path", str(tmp_path)],
        capture_output=True, check=False, env=offline, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    [file] = tmp_path.rglob("results_*.json")
    assert 0 <= json.loads(file.read_text())["results"]["chatglm_mmlu_letters"]["score,none"] <= 1
