"""Runs: every task from end to end, interrupted at any moment, refused where they must be, on any kind of model."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import DATA, TASKS, Scripted, evaluate

import chatglm
from chatglm.engine.memory import memory_for
from chatglm.errors import ConfigError, GenerationError, UsageError
from chatglm.evaluate.asking import Query, Reply
from chatglm.evaluate.compare import as_text, compare
from chatglm.evaluate.folder import RunFolder, read_items
from chatglm.evaluate.local import LocalModel
from chatglm.evaluate.tasks import TASKS as ALL
from chatglm.words import Words


@pytest.fixture(scope="module")
def embedded() -> LocalModel:
    return LocalModel(*chatglm.load(dtype="float32", device="cpu"), "embedded")


def reports(folder: Path) -> dict[str, str]:
    names = ("report.json", "report.md", "report.svg", "run.json")
    return {name: (folder / name).read_text(encoding="utf-8") for name in names}


def lines(folder: Path) -> dict[str, Any]:
    return {name: sorted(rows.items()) for name, rows in read_items(folder).items()}


def test_killed_at_any_moment_the_report_is_the_same(tmp_path: Path) -> None:
    """A kill leaves the first lines, and half of one: twenty such folders are gone on with."""
    evaluate(tmp_path / "whole")
    draw = random.Random(7)
    for moment in range(20):
        resumed = tmp_path / str(moment)
        shutil.copytree(tmp_path / "whole", resumed)
        files = sorted((resumed / "items").iterdir())
        reached = draw.randrange(len(files))
        os.truncate(files[reached], draw.randrange(files[reached].stat().st_size))
        for path in [*files[reached + 1 :], *resumed.glob("report.*")]:
            path.unlink()
        evaluate(resumed)
        assert reports(resumed) == reports(tmp_path / "whole")
        assert lines(resumed) == lines(tmp_path / "whole")


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_by_a_signal_the_report_is_the_same(tmp_path: Path, kills: int) -> None:
    evaluate(tmp_path / "whole")
    total = sum(path.stat().st_size for path in (tmp_path / "whole" / "items").iterdir())
    draw, resumed = random.Random(7), tmp_path / "killed"
    program = [sys.executable, str(Path(__file__).with_name("scripted_runs.py")), str(resumed)]
    for _ in range(kills):
        done = subprocess.run([*program, str(draw.randrange(total // kills))], capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    evaluate(resumed)
    assert reports(resumed) == reports(tmp_path / "whole")
    assert lines(resumed) == lines(tmp_path / "whole")


def test_a_finished_run_asks_nothing_again(tmp_path: Path) -> None:
    first, second = Scripted(), Scripted()
    assert evaluate(tmp_path, asked=first) == evaluate(tmp_path, asked=second)
    assert first.asked
    assert second.asked == []


@pytest.mark.parametrize(
    ("tasks", "limit"),
    [
        ("bbh:direct,mmlu,cmmlu:first-letter,needle", 2),
        pytest.param(",".join(ALL), 10, marks=pytest.mark.slow),  # formulas, programs and Chinese words take seconds
    ],
)
def test_the_embedded_model_from_end_to_end(tmp_path: Path, embedded: LocalModel, tasks: str, limit: int) -> None:
    report = evaluate(tmp_path, tasks, embedded, limit=limit, needle={"lengths": [256], "depths": [0, 100]})
    assert [task["task"] for task in report["tasks"]] == [name.partition(":")[0] for name in tasks.split(",")]
    for task in report["tasks"]:
        assert 0 <= task["low"] <= task["score"] <= task["high"] <= 100
        assert task["items"] == min(limit, task["of"])
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "protocol unpublished" in page
    assert all(task["title"] in page for task in report["tasks"])
    assert "<svg" in (tmp_path / "needle.svg").read_text()
    for rows in read_items(tmp_path).values():
        for row in rows.values():
            assert row["prompt"][:2] == embedded.tokenizer.get_prefix_tokens()
            assert {"answer", "extracted", "gold", "score"} <= set(row)


def test_the_prompts_of_agieval_are_those_of_its_repository(tmp_path: Path) -> None:
    asked = Scripted()
    evaluate(tmp_path, "agieval", asked)
    texts = {query.key.partition("/")[0]: query.text for query in asked.asked}
    assert texts["lsat-ar"].endswith(
        "of Cem.Q: Who sits in the middle? Answer Choices: (A)Ann (B)Ben (C)Cem (D)Dan (E)Eve\n"
        "A: Among A through E, the answer is"
    )
    assert re.search(r"问题：.* 选项：\(A\).* \(D\).*\n答案：从A到D, 我们应选择$", texts["gaokao-history"])
    assert re.search(r"^问题：.*\n答案：$", texts["gaokao-mathcloze"])


def test_every_protocol_can_be_asked(tmp_path: Path) -> None:
    tasks = ",".join(f"{task.name}:{name}" for task in ALL.values() for name in task.protocols)
    without_sandbox = ",".join(name for name in tasks.split(",") if not name.startswith("mbpp"))
    report = evaluate(tmp_path, without_sandbox, limit=1)
    assert all(task["items"] == 1 for task in report["tasks"])
    chat = Scripted()
    evaluate(tmp_path / "chat", TASKS, chat, prompting="chat", shots=1, limit=2)
    raw = [query for query in chat.asked if not query.chat]
    assert {query.key.partition("/")[0] for query in raw} <= {
        "trec",
        "triviaqa",
        "samsum",
        "lsht",
        "lcc",
        "repobench-p",
    }


def test_letters_are_scored_as_the_engine_scores_continuations(embedded: LocalModel) -> None:
    text, tokenizer = "Question?\nA. one\nB. two\nAnswer:", embedded.tokenizer
    for blank in (True, False):
        [reply] = embedded.replies(deque([Query("k", text, letters=("A", "B"), blank=blank)]))
        line = tokenizer.encode_text("\n", plain=True)
        ids = [
            tokenizer.encode_text(one if blank else "\n" + one, plain=True)[0 if blank else len(line) :] for one in "AB"
        ]
        prompt = [*tokenizer.get_prefix_tokens(), *tokenizer.encode_text(text, plain=True)]
        scores = [score.logprob for score in embedded.engine.score_many((prompt, one) for one in ids)]
        assert reply.logprobs[0] - reply.logprobs[1] == pytest.approx(scores[0] - scores[1], abs=1e-4)
    assert embedded.engine.stats().running == 0


def test_a_prompt_that_is_too_long_loses_its_middle(embedded: LocalModel) -> None:
    embedded = LocalModel(embedded.engine.model, embedded.tokenizer, kv_memory=memory_for(embedded.engine.model, 256))
    text = "BEGIN " + "the river is long. " * 90 + " END"
    queries = deque(Query(str(chat), text, chat=chat, max_tokens=8) for chat in (False, True))
    for reply in embedded.replies(queries):
        said = embedded.tokenizer.decode(reply.prompt)
        assert reply.dropped > 0
        assert "BEGIN" in said
        assert "END" in said
        assert len(reply.prompt) + 8 <= (embedded.context or 0)


def test_the_first_reply_to_a_wait_is_not_lost_when_the_reader_leaves(embedded: LocalModel) -> None:
    replies = embedded.replies(deque(Query(str(n), f"{n} + {n} =", max_tokens=4) for n in range(6)))
    next(replies)
    replies.close()
    assert embedded.engine.stats().running == embedded.engine.stats().waiting == 0


def test_two_runs_into_one_folder(tmp_path: Path) -> None:
    with RunFolder(tmp_path, {"a": 1}), pytest.raises(UsageError, match="written by another run"):
        RunFolder(tmp_path, {"a": 1})
    with pytest.raises(UsageError, match="another run, with other a"):
        RunFolder(tmp_path, {"a": 2})
    with RunFolder(tmp_path, {"a": 1}):
        pass


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            self.file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    with RunFolder(tmp_path, {}) as folder:
        folder.add("t", {"id": "1"})
        file = folder._files["t"]
        folder._files["t"] = Full(file)
        with pytest.raises(ConfigError, match="No space left on device; make room and run the same command again"):
            folder.add("t", {"id": "2"})
        folder._files["t"] = file
        folder.add("t", {"id": "2"})
        assert [line["id"] for line in folder.lines("t")] == ["1", "2"]


def test_malformed_rows_are_named_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    rows = ['{"question": "1+1?", "answer": "#### 2"}', "{", "[]", '{"question": "2+2?"}', '{"answer": "3"}']
    (folder / "test.jsonl").write_text("\n".join(rows))
    [task] = evaluate(tmp_path / "out", "gsm8k", data=tmp_path)["tasks"]
    assert task["items"] == 1
    assert task["counts"]["malformed rows"] == 4
    assert [row.partition(": ")[2] for row in task["malformed"]] == [
        "it is no JSON", "it is no JSON object", "it has no answer", "it has no question",
    ]  # fmt: skip
    assert "test.jsonl, row 2: it is no JSON" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (None, "", "put there test.jsonl of grade_school_math"),
        ("gsm8k/test.jsonl", "", "no row of .* there is none"),
        ("gsm8k/test.jsonl", "{}", "no row of .* it has no question"),
        ("gsm8k/test.jsonl.gz", "no gzip", "cannot be read"),
        ("gsm8k/test.jsonl", b"\xff", "is not UTF-8"),
        ("gsm8k/test.jsonl", '{"id": "a", "question": "1", "answer": "1"}\n' * 2, "two rows .* have the id"),
    ],
)
def test_data_that_cannot_be_used(tmp_path: Path, file: str | None, content: str | bytes, words: str) -> None:
    if file is not None:
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=words):
        evaluate(tmp_path / "out", "gsm8k", data=tmp_path)
    assert not (tmp_path / "out").exists()


def test_too_few_examples(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="9 examples are wanted for GSM8K, test, and there are 5"):
        evaluate(tmp_path, "gsm8k", shots=9)


def test_withheld_labels_give_a_file_to_hand_in(tmp_path: Path) -> None:
    [task] = evaluate(tmp_path, "ceval", data=DATA / "ceval-withheld")["tasks"]
    assert "score" not in task
    assert task["counts"]["labels withheld"] == 2
    answers = json.loads((tmp_path / "submission-ceval.one-pass.json").read_text())
    assert set(answers) == {"basic_geography"}
    assert set(answers["basic_geography"]) == {"0", "1"}
    assert set(answers["basic_geography"].values()) <= set("ABCD")


def test_a_model_that_says_nothing_is_wrong_and_counted(tmp_path: Path) -> None:
    class Silent(Scripted):
        def answer(self, query: Any) -> Reply:
            return Reply(query.key, [1], "")

    [task] = evaluate(tmp_path, "cmmlu:first-letter", Silent())["tasks"]
    assert task["score"] == 0
    assert task["items"] == task["counts"]["nothing written"] == task["counts"]["no answer found"] == 5


def test_a_model_that_breaks_off_ends_the_run_and_keeps_what_is_done(tmp_path: Path, embedded: LocalModel) -> None:
    class Broken(Scripted):
        def answer(self, query: Any) -> Reply:
            if len(self.asked) == 3:
                raise GenerationError("the engine has failed")
            return super().answer(query)

    with pytest.raises(GenerationError, match="has failed"):
        evaluate(tmp_path, "gsm8k", Broken())
    assert len(read_items(tmp_path)["gsm8k.cot"]) == 2
    assert evaluate(tmp_path, "gsm8k")["tasks"][0]["items"] == 5


def test_limit_takes_from_the_subjects_in_turn(tmp_path: Path) -> None:
    [task] = evaluate(tmp_path, "mmlu", limit=3)["tasks"]
    assert {name: one["items"] for name, one in task["subjects"].items()} == {"animals": 2, "small_sums": 1}


def test_comparing_two_runs(tmp_path: Path) -> None:
    class Other(Scripted):
        about = {"model": "other"}

        def answer(self, query: Any) -> Reply:
            return (
                Reply(query.key, [1], "#### 19") if query.text.startswith("Question: Nina") else super().answer(query)
            )

    evaluate(tmp_path / "a", "gsm8k:strict,mmlu")
    evaluate(tmp_path / "b", "gsm8k:strict", Other())
    [same] = compare(tmp_path / "a", tmp_path / "a")[:1]
    assert (same["p"], same["better"], same["worse"]) == (1.0, [], [])
    [changed] = compare(tmp_path / "a", tmp_path / "b")
    assert changed["items"] == 5
    text = as_text([changed], Words("zh"))
    assert "gsm8k:strict" in text
    assert "题" in text
    with pytest.raises(UsageError, match="no folder of a run"):
        compare(tmp_path, tmp_path / "a")


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ("", "names no task"),
        ("gsm9k", "there is no task 'gsm9k'"),
        ("gsm8k:x", "no protocol 'x'"),
        ("bbh,bbh", "twice"),
    ],
)
def test_tasks_that_are_not_there(tmp_path: Path, tasks: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        evaluate(tmp_path, tasks)
