"""Answers compared with those of the evaluation rows."""

from pathlib import Path

import pytest
from tiny_runs import tiny_base, train, write_rows

from chatglm.train.answers import Question, questions, scores
from chatglm.train.encoding import Example

CALL = "weather\n```python\ntool_call(city='北京', days=3)\n```"


def test_a_call_is_right_when_its_tool_and_arguments_are() -> None:
    assert scores(CALL, CALL) == {"exact": 100.0, "tool_call": 100.0}
    assert scores(CALL.replace("city='北京', days=3", 'days = 3, city="北京"'), CALL)["tool_call"] == 100.0
    for wrong in (CALL.replace("3", "4"), CALL.replace("weather", "clock"), "I do not know.", ""):
        assert scores(wrong, CALL) == {"exact": 0.0, "tool_call": 0.0}


@pytest.mark.filterwarnings("ignore")  # of jieba, about its own sources
def test_rouge_and_bleu_of_text() -> None:
    pytest.importorskip("rouge_chinese")
    same = scores("今天北京天气很好，适合出门", "今天北京天气很好，适合出门")
    assert same["rouge-l"] == pytest.approx(100)
    assert same["bleu-4"] == pytest.approx(100)
    part = scores("今天上海天气很好，适合出门", "今天北京天气很好，适合出门")
    assert 0 < part["rouge-1"] < 100
    assert scores("", "今天")["rouge-1"] == 0.0


def test_every_learned_turn_is_a_question() -> None:
    example = Example([1, 2, 3, 4, 5, 6, 7, 8], [False, False, True, True, False, True, True, True])
    assert list(questions(example)) == [Question([1, 2], [3]), Question([1, 2, 3, 4, 5], [6, 7])]


@pytest.mark.filterwarnings("ignore")
def test_a_run_measures_its_answers(tmp_path: Path) -> None:
    base, data = tiny_base(tmp_path / "base"), write_rows(tmp_path / "rows.jsonl", {"a": "one", "b": "two"})
    found = train(
        base, data, tmp_path / "out", eval_data=str(data), eval_answers=5, eval_tokens=8, max_steps=40, eval_steps=40,
        learning_rate=2e-2, targets=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    ).metrics  # fmt: skip
    assert found["eval_exact"] == 100.0
