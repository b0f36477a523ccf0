"""Pairs of answers and DPO: every spelling says the same, and the preferred answer becomes the likelier one."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_finetune import ALL, KILLED, same, weights_of
from tiny_runs import ANSWERS, settings, train

import chatglm
from chatglm.errors import ConfigError, DataError
from chatglm.loading import load_tokenizer
from chatglm.train.encoding import Report
from chatglm.train.kinds import PairTrainer, answer_logprobs
from chatglm.train.packing import PairCollator
from chatglm.train.pairs import PairColumns, pair_of, pairs
from chatglm.train.rows import Row
from chatglm.train.trainer import AnswerTrainer

OTHERS = {asked: "no" if answer != "four" else "four and more" for asked, answer in ANSWERS.items()}


pytestmark = pytest.mark.usefixtures("light")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [{"prompt": asked, "chosen": ANSWERS[asked], "rejected": OTHERS[asked]} for asked in ANSWERS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


EARLIER = [user("a"), said("b")]
SPELLINGS: list[dict[str, Any]] = [
    {"prompt": "q", "chosen": "yes", "rejected": "no", "history": [["a", "b"]]},
    {"prompt": [*EARLIER, user("q")], "chosen": [said("yes")], "rejected": [said("no")]},
    {"chosen": [*EARLIER, user("q"), said("yes")], "rejected": [*EARLIER, user("q"), said("no")]},
    {"prompt": "q", "chosen": [*EARLIER, user("q"), said("yes")], "rejected": [*EARLIER, user("q"), said("no")]},
    {"messages": [*EARLIER, user("q")], "chosen": said("yes"), "rejected": "no"},
    {"conversations": [*EARLIER, user("q")], "chosen": "yes", "rejected": said("no")},
    {
        "conversations": [{"from": who, "value": text} for who, text in (("human", "a"), ("gpt", "b"), ("human", "q"))],
        "chosen": {"from": "gpt", "value": "yes"}, "rejected": {"from": "gpt", "value": "no"},
    },
    {"instruction": "q", "input": "", "chosen": "yes", "rejected": "no", "history": [["a", "b"]]},
]  # fmt: skip


def read(values: list[Any], base: Path, limit: int = 2048, columns: str | None = None) -> tuple[list[Any], Report]:
    report = Report()
    rows = (Row(Path("p.jsonl"), number, value) for number, value in enumerate(values, 1))
    names = None if columns is None else PairColumns.parse(columns)
    return list(pairs(rows, load_tokenizer(base), limit, report, names)), report


def test_every_spelling_gives_the_same_pair_of_which_only_the_answers_are_learned(base: Path) -> None:
    found, report = read(SPELLINGS, base)
    assert report.bad == []
    assert not report.unused
    assert all(found[index : index + 2] == found[:2] for index in range(0, len(found), 2))
    tokenizer = load_tokenizer(base)
    prompt = tokenizer.render([*EARLIER, user("q")]).ids
    for example, answer in zip(found[:2], ("yes", "no"), strict=True):
        assert example.ids[: len(prompt)] == prompt
        assert example.learned == [False] * len(prompt) + [True] * (len(example.ids) - len(prompt))
        assert tokenizer.decode(example.ids[len(prompt) : -1]).strip() == answer


def test_other_names_of_columns_a_call_and_what_the_model_did_before(base: Path) -> None:
    named, _ = read([{"ask": "q", "good": "yes", "bad": "no", "past": [["a", "b"]]}], base, columns="ask,good,bad,past")
    assert named == read(SPELLINGS[:1], base)[0]
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "clock", "arguments": '{"city": "Oslo"}'}}]}
    tools = [{"name": "clock", "description": "time", "parameters": {"type": "object", "properties": {}}}]
    chosen, rejected = pair_of({"messages": [user("time?")], "chosen": [call], "rejected": "late", "tools": tools})
    assert [message.metadata for message in chosen.messages] == ["", "", "clock"]
    assert chosen.loss[:2] == rejected.loss[:2] == (False, False)


def test_a_row_that_is_no_pair_is_named_with_the_reason(base: Path) -> None:
    cases: list[tuple[Any, str]] = [
        ("text", "must be an object"),
        ({"prompt": "q", "chosen": "a"}, "no 'rejected'"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "the same"),
        ({"prompt": "q", "chosen": "a", "rejected": " "}, "empty answer"),
        ({"prompt": "q", "chosen": "a", "rejected": 3}, "must be a text"),
        ({"chosen": "a", "rejected": "b"}, "no 'prompt'"),
        ({"chosen": [user("q"), said("a")], "rejected": [user("p"), said("a")]}, "message 0 already"),
        ({"chosen": [user("q"), said("a")], "rejected": [user("q")]}, "only goes on"),
        ({"prompt": "q", "chosen": "long " * 40 + "a", "rejected": "long " * 40 + "b"}, "cut at 24 tokens"),
        ({"messages": "no", "chosen": "a", "rejected": "b"}, "must be JSON"),
    ]
    found, report = read([value for value, _ in cases], base, limit=24)
    assert found == []
    for (place, reason), (number, (_, message)) in zip(report.bad, enumerate(cases, 1), strict=True):
        assert place == f"p.jsonl, line {number}"
        assert message in reason
    with pytest.raises(DataError, match="three or four names"):
        PairColumns.parse("a,b")


def logprobs(folder: Path, data: Path) -> torch.Tensor:
    """Of the preferred answers and the others [2, pairs]."""
    model, tokenizer = chatglm.load(folder, dtype="float32", device="cpu")
    rows = (Row(data, number, json.loads(line)) for number, line in enumerate(data.read_text().splitlines(), 1))
    found = list(pairs(rows, tokenizer, 99, Report()))
    batch = PairCollator(False)([found[index : index + 2] for index in range(0, len(found), 2)])
    with torch.no_grad():
        return answer_logprobs(model, batch).view(2, -1)


def test_the_preferred_answer_becomes_likelier_than_the_other_one(base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {"method": "dpo", "targets": ALL, "learning_rate": 3e-3, "max_steps": 12, "beta": 0.1}
    result = train(base, data, out, eval_data=str(data), **options)
    before, after = logprobs(base, data), logprobs(out, data)
    assert not (before[0] > before[1]).all()
    assert (after[0] > after[1]).all()
    assert after[0].mean() > before[0].mean()
    assert (after[0] - before[0] > after[1] - before[1]).all()
    history = json.loads((out / "manifest.json").read_text())["result"]["history"]
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert result.metrics["eval_accuracy"] == 100
    raised = (after - before)[0] - (after - before)[1]
    assert result.metrics["eval_margin"] == pytest.approx(0.1 * raised.mean().item(), rel=1e-3)
    loss = -torch.nn.functional.logsigmoid(0.1 * raised).mean().item()
    assert result.metrics["eval_loss"] == pytest.approx(loss, rel=1e-3)


@pytest.mark.slow
def test_a_run_that_is_resumed_ends_as_one_that_was_not_stopped(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "method": "dpo", "max_steps": 4, "save_steps": 2, "batch_size": 3, "dropout": 0.2, "learning_rate": 1e-2
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


@pytest.mark.slow
def test_two_processes_train_as_one_and_quantized_weights_learn_too(base: Path, data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "dpo", "learning_rate": 1e-2, "max_steps": 2, "eval_data": str(data)}
    one = train(base, data, tmp_path / "one", batch_size=4, **options)
    program = tmp_path / "program.py"
    program.write_text(
        KILLED.format(
            paths=[str(Path(__file__).parent), str(Path(__file__).parents[1])], place=None, base=str(base),
            data=str(data), out=str(tmp_path / "two"), resume=False, options={**options, "batch_size": 2},
        )
    )  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    done = subprocess.run(command, capture_output=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr.decode()
    for name, tensor in weights_of(tmp_path / "two").items():
        torch.testing.assert_close(tensor, weights_of(tmp_path / "one")[name], atol=1e-6, rtol=1e-5)
    told = json.loads((tmp_path / "two" / "manifest.json").read_text())["result"]["metrics"]
    assert told == pytest.approx(one.metrics, rel=1e-5)
    packed = train(base, data, tmp_path / "int4", batch_size=8, quantize="int4", **options)
    assert packed.metrics["eval_loss"] < math.log(2)


def test_settings_that_mean_nothing_to_pairs_are_refused() -> None:
    for message, options in (
        ("packing is True", {"packing": True}),
        ("eval_answers is 3", {"eval_answers": 3}),
        ("beta is 0; it must be a number, more than 0", {"beta": 0}),
    ):
        with pytest.raises(ConfigError, match=message):
            settings(Path("b"), Path("d"), Path("o"), method="dpo", **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of trl and what it imports
def test_loss_and_gradients_are_those_of_trl(base: Path, data: Path, tmp_path: Path) -> None:
    """Its trainer takes rows that are tokenized already only with its own preparation left out, as here."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from peft import LoraConfig

    from chatglm.train.store import Store

    class Prepared(trl.DPOTrainer):  # type: ignore[misc, name-defined]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    tokenizer = load_tokenizer(base)
    values = [json.loads(line) for line in data.read_text().splitlines()]
    found, _ = read(values, base)
    batch = PairCollator(False)([found[index : index + 2] for index in range(0, len(found), 2)])
    rows = []
    for chosen, rejected in zip(found[::2], found[1::2], strict=True):
        start = chosen.learned.index(True)
        rows.append(
            {"prompt_ids": chosen.ids[:start], "chosen_ids": chosen.ids[start:], "rejected_ids": rejected.ids[start:]}
        )
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["query_key_value", "dense"], init_lora_weights=False)
    gradients, losses = [], []
    for which in ("trl", "ours"):
        model, _ = chatglm.load(base, dtype="float32", device="cpu")
        arguments = trl.DPOConfig(
            str(tmp_path / which), beta=0.3, use_cpu=True, bf16=False, report_to=[], gradient_checkpointing=False
        )
        theirs = Prepared(
            model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
            peft_config=config,
        )  # fmt: skip
        trainer: Any = theirs
        given = theirs.data_collator(rows)
        if which == "ours":
            run = settings(base, data, tmp_path, method="dpo", beta=0.3)
            trainer = PairTrainer(
                run, tmp_path, model=theirs.model, args=arguments, train_dataset=Store(found, tmp_path)
            )
            given = batch
        loss = trainer.compute_loss(theirs.model, given)
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: one.grad for name, one in theirs.model.named_parameters() if one.requires_grad})
    assert losses[0] != pytest.approx(math.log(2), abs=1e-3)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)
