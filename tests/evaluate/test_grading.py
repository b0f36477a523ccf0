"""Graders: worked solutions are right, wrong ones are not, bombs end; metrics and means are the known ones."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import DATA

from chatglm.chat.call import format_tool_call
from chatglm.evaluate.calls import grade_calls
from chatglm.evaluate.data import load_data
from chatglm.evaluate.extract import EXTRACTORS
from chatglm.evaluate.grading import Grader, same_number, same_statement
from chatglm.evaluate.item import Item
from chatglm.evaluate.math_answers import MathJudge
from chatglm.evaluate.metrics import LONG_METRICS
from chatglm.evaluate.programs import ProgramJudge
from chatglm.evaluate.published import LONGBENCH
from chatglm.evaluate.report import mean_of
from chatglm.evaluate.rows import READERS
from chatglm.evaluate.statistics import interval, paired
from chatglm.evaluate.tasks import TASKS
from chatglm.evaluate.tasks.longbench import CATEGORIES

MILL = "the mill by the river belongs to mr hart. he bakes."
SETS = Path(__file__).resolve().parents[3] / "shared" / "data" / "eval"
needs_sets = pytest.mark.skipif(not SETS.is_dir(), reason="the public sets do not stand beside the repository")


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as one:
        yield one


# the tasks' own solutions are right


@pytest.mark.parametrize("folder", [DATA, pytest.param(SETS, marks=needs_sets)])
def test_every_worked_solution_of_gsm8k_is_right(folder: Path, grader: Grader) -> None:
    for item in load_data(TASKS["gsm8k"], folder).items:
        solution = f"{item.worked}\n#### {item.gold[0]}"
        for name in ("number", "marked number"):
            assert grader.grade("number", EXTRACTORS[name](solution, item), item).score == 1, item.id
        assert (
            grader.grade("number", EXTRACTORS["number"](f"{item.worked} 答案是{item.gold[0]}。", item), item).score == 1
        )


@pytest.mark.parametrize("folder", [DATA, pytest.param(SETS, marks=needs_sets)])
def test_every_worked_example_of_bbh_is_right(folder: Path, grader: Grader) -> None:
    data = load_data(TASKS["bbh"], folder)
    for subject, text in data.facts.items():
        for shot in re.split(r"\n\n+(?=Q:)", text)[1:]:
            worked = shot.partition("\nA:")[2]
            item = Item(subject, subject, "?", (worked.rpartition("answer is")[2].strip().removesuffix("."),))
            assert grader.grade("statement", EXTRACTORS["stated"](worked, item), item).score == 1, shot
    for item in data.items:
        found = EXTRACTORS["stated"](f"Some thoughts. So the answer is {item.gold[0]}.", item)
        assert grader.grade("statement", found, item).score == 1, item.id


@needs_sets
def test_the_letter_of_every_choice_is_found() -> None:
    for name in ("mmlu", "agieval"):
        for item in load_data(TASKS[name], SETS).items[::7]:
            for letter in item.letters:
                for text in (f"The answer is {letter}.", f"({letter})", f"答案是{letter}。", f"故选{letter}。"):
                    assert EXTRACTORS["letter"](text, item) == letter


def test_a_reference_program_passes_and_a_wrong_one_does_not(grader: Grader) -> None:
    item = next(item for item in load_data(TASKS["mbpp"], DATA).items if item.setup)
    assert grader.grade("tests", EXTRACTORS["code"](f"```python\n{item.worked}\n```", item), item).score == 1
    wrong = grader.grade(
        "tests", item.worked.replace("* r * r", "* r"), Item("2", "", "?", tests=("assert area(2) == 12.57",))
    )
    assert (wrong.score, wrong.why) == (0, "NameError: name 'math' is not defined")


@pytest.mark.slow
@pytest.mark.parametrize("folder", [DATA, pytest.param(SETS, marks=needs_sets)])
def test_every_reference_program_of_mbpp_passes(folder: Path, grader: Grader) -> None:
    items = load_data(TASKS["mbpp"], folder).items
    assert [
        item.id for item in items if grader.grade("tests", EXTRACTORS["code"](item.worked, item), item).score != 1
    ] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("while True: pass", "timeout"),
        ("x = []\nwhile True: x.append(' ' * 10**7)", ""),
        ("import os\nwhile True: os.fork()", ""),
        ("import sys\nsys.exit(0)", ""),
        ("import os\nos._exit(0)", ""),
        ("raise SystemExit", ""),
        ("import builtins\nbuiltins.exec = builtins.compile = lambda *_, **__: None", ""),
    ],
)
def test_programs_that_hang_bomb_or_leave_fail(code: str, why: str) -> None:
    judge = ProgramJudge(seconds=3)
    try:
        score, told = judge.grade(code, Item("1", "", "?", tests=("assert add(1, 2) == 3",)))
        assert score == 0
        assert why in told
        assert judge.grade("def add(a, b): return a + b", Item("1", "", "?", tests=("assert add(1, 2) == 3",))) == (
            1,
            "",
        )
    finally:
        judge.close()


# formulas


def test_formulas_are_compared_as_mathematics(grader: Grader) -> None:
    for answer, gold, same in (
        ("\\frac{10}{12}", "\\frac{5}{6}", 1), ("0.5", "\\frac{1}{2}", 1), ("(x+3)(x-3)", "(x-3)(x+3)", 1),
        ("2\\cdot 3", "6", 1), ("\\dfrac{1}{2}", "\\frac12", 1), ("\\sqrt{8}", "2\\sqrt{2}", 1), ("9 \\pi", "9\\pi", 1),
        ("x = 6", "6", 1), ("7", "6", 0), ("\\frac{1}{3}", "0.3", 0), ("(2,-2)", "(-2,2)", 0), ("words only", "6", 0),
        ("", "6", 0), ("__import__('os').system('true')", "6", 0),
    ):  # fmt: skip
        assert grader.grade("formula", answer, Item("i", "s", "?", (gold,))).score == same, (answer, gold)


def test_a_formula_that_takes_for_ever_is_wrong_and_the_next_is_judged() -> None:
    judge = MathJudge(patience=0.5)
    try:
        score, why = judge.grade("9^{9^{9^{9^{9}}}} + \\frac{1}{7}", ("6",))
        assert score == 0
        judge.patience = 60  # on a machine with much else to do
        assert judge.grade("\\frac{12}{2}", ("6",)) == (1.0, "")
    finally:
        judge.close()


def some_call(wanted: dict[str, Any], item: Item) -> str:
    """A wanted call as the model writes it, with the last of the values that are right.

    Two rows of the public set let an argument be left out that the function requires; it is given then.
    """

    def picked(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: picked(right[-1]) for key, right in value.items() if right[-1] != ""}
        return [picked(one) if isinstance(one, dict) else one for one in value] if isinstance(value, list) else value

    ((name, arguments),) = wanted.items()
    [tool] = [tool for tool in item.extra["tools"] if tool["name"] == name.replace(".", "_")]
    needed = tool["parameters"].get("required", ())
    given = {
        key: picked([value for value in right if value != ""][-1])
        for key, right in arguments.items()
        if right[-1] != "" or key in needed
    }
    return f"{tool['name']}\n{format_tool_call(given)}"


@pytest.mark.parametrize("folder", [DATA, pytest.param(SETS, marks=needs_sets)])
def test_calls_with_the_values_that_are_listed_are_right(folder: Path, grader: Grader) -> None:
    """In any order; one more, one less or a changed one is wrong."""
    data = load_data(TASKS["bfcl"], folder)
    assert data.malformed == []
    for item in data.items:
        calls = [some_call(wanted, item) for wanted in json.loads(item.gold[0])]

        def score(written: list[str], item: Item = item) -> float:
            return grader.grade("calls", EXTRACTORS["calls"]("<|assistant|>".join(written), item), item).score

        assert score(calls[::-1]) == 1, item.id
        if calls:
            name = item.extra["tools"][0]["name"]
            assert score(calls[:-1]) == score([*calls, calls[0]]) == score(["no"]) == 0, item.id
            assert score([*calls[:-1], f"{name}\n{format_tool_call({'nothing': 1})}"]) == 0, item.id
        else:
            assert score(["\nI cannot."]) == 1, item.id
            assert score([f"{item.extra['tools'][0]['name']}\n{format_tool_call({})}"]) == 0, item.id


@pytest.mark.parametrize(
    ("made", "right"),
    [
        ({"n": 3, "x": 2}, True),  # a whole number is a number
        ({"n": 3.0, "x": 2.0}, False),  # and 3.0 no whole number
        ({"n": "3", "x": 2.0}, False),
        ({"n": True, "x": 2.0}, False),
        ({"n": 4, "x": 2.0}, False),
        ({"x": 2.0}, False),  # n is required
        ({"n": 3}, False),  # x may not be left out
        ({"n": 3, "x": 2.0, "word": "NEW york"}, True),
        ({"n": 3, "x": 2.0, "word": "new-york"}, True),
        ({"n": 3, "x": 2.0, "word": "newyork city"}, False),
        ({"n": 3, "x": 2.0, "word": ["New York"]}, False),
        ({"n": 3, "x": 2.0, "many": ["A b", "c"]}, True),
        ({"n": 3, "x": 2.0, "many": ["c", "A b"]}, False),
        ({"n": 3, "x": 2.0, "many": [1, 2]}, False),
        ({"n": 3, "x": 2.0, "thing": {"kind": "red", "size": 1}}, True),
        ({"n": 3, "x": 2.0, "thing": {"kind": "red"}}, True),
        ({"n": 3, "x": 2.0, "thing": {"size": 1}}, False),
        ({"n": 3, "x": 2.0, "thing": {"kind": "red", "age": 1}}, False),
        ({"n": 3, "x": 2.0, "things": [{"kind": "red"}]}, True),
        ({"n": 3, "x": 2.0, "things": [{"kind": "blue"}]}, False),
        ({"n": 3, "x": 2.0, "things": []}, False),
        ({"n": 3, "x": 2.0, "other": 1}, False),  # declared, and never right
        ({"n": 3, "x": 2.0, "held": "start"}, True),  # a variable in place of a number
        ({"n": 3, "x": 2.0, "held": "end"}, False),
        ({"n": 3, "x": 2.0, "any": "on"}, True),
        ({"n": 3, "x": 2.0, "any": 7}, False),
    ],
)
def test_arguments_are_compared_by_type_and_value(made: dict[str, Any], right: bool) -> None:
    kinds = {
        "n": "integer", "x": "float", "word": "string", "many": "array", "thing": "dict", "things": "array",
        "other": "integer", "held": "integer", "any": "any",
    }  # fmt: skip
    properties: dict[str, Any] = {name: {"type": kind} for name, kind in kinds.items()}
    properties["many"]["items"], properties["things"]["items"] = {"type": "string"}, {"type": "dict"}
    row = {
        "messages": [{"role": "user", "content": "?"}],
        "tools": [{"name": "a.b", "parameters": {"type": "dict", "properties": properties, "required": ["n"]}}],
        "answers": [{"a.b": {
            "n": [3], "x": [2.0], "word": ["New York", ""], "many": [["a b", "C"], ""],
            "thing": [{"kind": ["Red"], "size": [1, ""]}, ""], "things": [[{"kind": ["Red"]}], ""],
            "held": ["start", ""], "any": ["On", ""],
        }}],
    }  # fmt: skip
    item = READERS["calls"](row, "simple_0", "simple")
    for name in ("a.b", "a_b"):
        score, why = grade_calls(json.dumps([{"name": name, "arguments": made}]), item)
        assert (score == 1, why == "") == (right, right)


def test_the_own_files_of_bfcl_are_read(tmp_path: Path) -> None:
    """A row in each line of a `.json`, and the answers in a folder beside them."""
    function = {"name": "a.b", "parameters": {"type": "dict", "properties": {"properties": {"type": "float"}}}}
    rows = [
        {"id": "simple_python_0", "question": [[{"role": "user", "content": "?"}]], "function": [function]},
        {"id": "multi_turn_0", "question": [[], []], "function": [function]},
    ]
    folder = tmp_path / "bfcl"
    (folder / "possible_answer").mkdir(parents=True)
    name = "BFCL_v4_simple_python.json"
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "BFCL_v4_simple_java.json").write_text("{}")
    truth = {"id": "simple_python_0", "ground_truth": [{"a.b": {"properties": [1.0]}}]}
    (folder / "possible_answer" / name).write_text(json.dumps(truth) + "\n")
    data = load_data(TASKS["bfcl"], tmp_path)
    [item] = data.items
    assert item.subject == "simple_python"
    assert item.extra["tools"][0] == {
        "name": "a_b", "parameters": {"type": "object", "properties": {"properties": {"type": "number"}}}
    }  # fmt: skip
    assert set(data.files) == {name, f"possible_answer/{name}"}
    assert data.malformed == [f"{name}, row 2: it has no messages, or those of several turns"]


def test_numbers_and_statements() -> None:
    assert same_number("1,250.0", "1250")
    assert not same_number("twelve", "12")
    assert not same_number("13", "12")
    assert same_statement("(B) 71", "(B)")
    assert same_statement("B", "(B)")
    assert not same_statement("(A)", "(B)")
    assert not same_statement("Both", "(B)")
    assert same_statement("true", "True")
    assert same_statement("] )", "])")
    assert same_statement("apple, fig, pear", "apple fig pear")
    assert not same_statement("fig apple pear", "apple fig pear")


# LongBench


def test_the_metrics_of_longbench() -> None:
    """The values for ROUGE-L are those of the package `rouge` 1.0.1."""
    for metric, answer, gold, value in (
        ("ROUGE-L", "the old mill stands by the river. it is old.", MILL, 4 / 9),
        ("ROUGE-L", "a b c", "c b a", 1 / 3),
        ("ROUGE-L", "", "c b a", 0),
        ("ROUGE-L", "a b. c d.", "a b. c d.", 1),
        ("token F1", "The Mr. Hart", "mr hart", 1),
        ("token F1", "Mr Hart of the mill", "Mr Hart", 2 * 2 / 6),
        ("token F1", "nobody", "Mr Hart", 0),
        ("count", "There are 2 or 3", "2", 0.5),
        ("count", "none", "2", 0),
        ("retrieval", "Paragraph 2", "Paragraph 2", 1),
        ("retrieval", "2 or 12", "Paragraph 2", 0.5),
        ("retrieval, Chinese", "段落12", "段落2", 0),
        ("code similarity", "`x`\n# y\n    return a + b", "    return a + b", 1),
        ("code similarity", "", "x", 0),
    ):  # fmt: skip
        assert LONG_METRICS[metric](answer, gold, ()) == pytest.approx(value), (metric, answer)
    classes = ("Age", "Distance", "Place")
    assert LONG_METRICS["classification"]("Distance", "Distance", classes) == 1
    assert LONG_METRICS["classification"]("Age or Distance", "Distance", classes) == 0.5
    assert LONG_METRICS["classification"]("Age", "Distance", classes) == 0


def test_chinese_is_divided_into_words() -> None:
    assert LONG_METRICS["token F1, Chinese"]("姓何的人。", "姓何的人", ()) == 1
    assert 0 < LONG_METRICS["ROUGE-L, Chinese"]("磨坊烤面包", "河边的磨坊烤面包", ()) < 1


def test_the_published_means_of_longbench_follow_from_the_published_scores_of_its_sets() -> None:
    """Scores of ChatGLM3-6B-32k in the README of LongBench; the few-shot mean of the two READMEs differs by 0.4."""
    scores = {
        "narrativeqa": 26.0, "qasper": 43.3, "multifieldqa_en": 51.7, "multifieldqa_zh": 62.3, "hotpotqa": 54.4,
        "2wikimqa": 44.9, "musique": 40.4, "dureader": 44.78, "gov_report": 36.8, "qmsum": 23.9, "multi_news": 27.9,
        "vcsum": 17.8, "trec": 79.0, "triviaqa": 87.1, "samsum": 38.2, "lsht": 42.0, "passage_count": 2.0,
        "passage_retrieval_en": 99.0, "passage_retrieval_zh": 94.0, "lcc": 57.66, "repobench-p": 54.76,
    }  # fmt: skip
    found = mean_of({name: [score / 100] for name, score in scores.items()}, "categories", CATEGORIES)
    reported = LONGBENCH["ChatGLM3-6B-32K"]
    for name, mean in found["categories"].items():
        assert mean == pytest.approx(reported[name], abs=0.45 if name == "few-shot" else 0.06), name
    assert found["score"] == pytest.approx(reported["mean"], abs=0.06)


# means, intervals, tests


def test_intervals_hold_the_mean_and_shrink() -> None:
    assert interval([1.0] * 3 + [0.0] * 7) == pytest.approx((0.1078, 0.6032), abs=1e-4)  # Wilson, 3 of 10
    low, high = interval([0.0] * 20)
    assert low == 0
    assert 0 < high < 0.2
    for count in (2, 20, 200):
        scores = [0.25, 0.75] * count
        low, high = interval(scores)
        assert low < 0.5 < high
        assert high - low < 2 / math.sqrt(count)


def test_the_paired_test() -> None:
    assert paired([1, 0, 1], [1, 0, 1]) == 1
    assert paired([0] * 5, [1] * 5) == 2 / 2**5  # McNemar, 5 of 5
    assert paired([0, 1] * 50, [1, 0] * 50) == 1
    assert paired([0.2] * 30, [0.3] * 30) < 0.01
    assert paired([0.2, 0.3] * 20, [0.3, 0.2] * 20) > 0.5
    assert 0 <= paired([0.0] * 2000, [1.0] * 2000) < 1e-100


def test_the_sets_beside_the_repository_can_all_be_read() -> None:
    if not SETS.is_dir():
        pytest.skip("the public sets do not stand beside the repository")
    counts = {}
    for name in ("gsm8k", "bbh", "mmlu", "mbpp", "agieval"):
        data = load_data(TASKS[name], SETS)
        counts[name] = (len(data.items), len(data.malformed))
    assert counts == {
        "gsm8k": (1319, 0), "bbh": (6511, 0), "mmlu": (14042, 0), "mbpp": (500, 0), "agieval": (3967, 0)
    }  # fmt: skip
