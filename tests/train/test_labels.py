"""Labels: the official rule on every kind of conversation, in every spelling; and what makes a row a bad one."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers_at_hand import tokenizer

from chatglm.errors import ChatGLMError, DataError
from chatglm.train.check import check
from chatglm.train.encoding import Example, Report, encode, encode_text, examples
from chatglm.train.formats import FORMATS, Columns, sample_of
from chatglm.train.respell import respell, spelled
from chatglm.train.rows import Row
from chatglm.train.sources import read_examples
from chatglm.words import Words

TOOLS = [{"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}]
CHAT = {"conversations": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "hi"}] * 2}
TOOL = {
    "tools": TOOLS,
    "conversations": [
        {"role": "user", "content": "北京天气"},
        {"role": "tool", "name": "weather", "parameters": {"city": "北京"}, "observation": '{"t": 3}'},
        {"role": "tool", "name": "weather", "parameters": {"city": "a'b\n"}, "observation": "none"},
        {"role": "assistant", "content": "三度"},
    ],
}
CODE = {
    "conversations": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "metadata": "interpreter", "content": "```python\nprint(1+1)\n```"},
        {"role": "observation", "content": "2"},
        {"role": "assistant", "content": "It is 2."},
    ]
}
KINDS = {"chat": CHAT, "tools": TOOL, "code": CODE}


def example_of(row: Any, version: str = "chatglm3") -> Example:
    return encode(sample_of(row), tokenizer(version=version))


def official_mask(row: dict[str, Any]) -> tuple[list[int], list[bool]]:
    """The rule of the official training program, message by message: whose token, and one shift."""
    language = tokenizer()
    specials, plain = language.chat_specials, language.tokenizer.encode
    ids, mine = [specials["[gMASK]"], specials["sop"]], [False, False]

    def add(role: str, metadata: str, content: str) -> None:
        piece = [specials[f"<|{role}|>"], *plain(metadata + "\n"), *plain(content)]
        ids.extend(piece)
        mine.extend([role == "assistant"] * len(piece))

    if "tools" in row:
        words = "Answer the following questions as best as you can. You have access to the following tools:"
        add("system", "", words + "\n" + json.dumps(row["tools"], indent=4, ensure_ascii=False))
    for item in row["conversations"]:
        if item["role"] == "tool":
            arguments = ", ".join(f"{key}={value!r}" for key, value in item["parameters"].items())
            add("assistant", item["name"], f"```python\ntool_call({arguments})\n```")
            add("observation", "", item["observation"])
        else:
            add(item["role"], item.get("metadata", ""), item["content"])
    return [*ids, 2], [False, *mine]


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_those_of_the_official_rule_token_by_token(kind: str) -> None:
    found = example_of(KINDS[kind])
    assert (found.ids, found.learned) == official_mask(KINDS[kind])


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("learned", [True, False])
def test_the_loss_of_a_message_moves_its_tokens_and_the_one_after_it(index: int, learned: bool) -> None:
    plain, items = example_of(CHAT), [dict(item) for item in CHAT["conversations"]]
    items[index]["loss"] = learned
    found = example_of({"conversations": items})
    assert found.ids == plain.ids
    starts = [place for place, token in enumerate(plain.ids) if token in roles()] + [len(plain.ids) - 1]
    expected = list(plain.learned)
    expected[starts[index] + 1 : starts[index + 1] + 1] = [learned] * (starts[index + 1] - starts[index])
    assert found.learned == expected


def roles() -> set[int]:
    return {token for name, token in tokenizer().chat_specials.items() if name.startswith("<|")}


def test_chatglm2_learns_its_last_answer_alone() -> None:
    row = {"prompt": "q2", "response": "answer", "history": [["q1", "a1"]]}
    found = example_of(row, "chatglm2")
    language = tokenizer(version="chatglm2")
    trained = [token for token, learned in zip(found.ids, found.learned, strict=True) if learned]
    assert trained == [*language.tokenizer.encode("answer"), language.tokenizer.eos_id]


SAME = {
    "openai": {
        "messages": [
            {"role": "user", "content": "北京天气"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "function": {"name": "weather", "arguments": '{"city": "北京"}'}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": '{"t": 3}'},
            {"role": "assistant", "content": "三度"},
        ],
        "tools": [{"type": "function", "function": TOOLS[0]}],
    },
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "北京天气"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "北京"}}'},
            {"from": "observation", "value": '{"t": 3}'},
            {"from": "gpt", "value": "三度"},
        ],
        "tools": json.dumps(TOOLS),
    },
    "official": {**TOOL, "conversations": [*TOOL["conversations"][:2], TOOL["conversations"][3]]},
}


def test_the_same_in_every_spelling_is_the_same_to_the_token() -> None:
    first, *others = (example_of(row) for row in SAME.values())
    assert all(other == first for other in others)
    plain = [
        {"instruction": "add", "input": "1 and 2", "output": "3", "history": [["a", "b"]]},
        {"prompt": "add\n1 and 2", "response": "3", "history": '[["a", "b"]]'},
    ]
    assert example_of(plain[0]) == example_of(plain[1])


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_converting_changes_no_token_or_is_refused(kind: str, to: Any) -> None:
    sample = sample_of(KINDS[kind])
    try:
        row = json.loads(json.dumps(spelled(sample, to)))
    except DataError:
        assert to == "text" or (kind, to) not in {("chat", "chatglm2"), ("tools", "openai"), ("tools", "sharegpt")}
        assert to != "official"
        return
    assert example_of(row) == example_of(KINDS[kind])


def test_a_file_is_converted_whole_or_not_at_all(tmp_path: Path) -> None:
    source, target = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    source.write_text("\n".join(json.dumps(row) for row in (CHAT, TOOL)))
    assert respell(source, target, "openai") == 2
    for to, path, message in (
        ("alpaca", tmp_path / "c.jsonl", "a.jsonl, line 2: it has tools"),
        ("openai", target, "already"),
        ("openai", tmp_path / "c.csv", "must end in .jsonl"),
        ("openai", tmp_path / "none" / "c.jsonl", "there is no folder"),
    ):
        with pytest.raises(DataError, match=message):
            respell(source, path, to)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


def conversation(*items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"conversations": list(items), **more}


USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
BAD: list[tuple[Any, str]] = [
    ([], "must be an object"),
    ({"id": 3}, "its keys are id"),
    ({"conversations": []}, "a list that is not empty"),
    (conversation(USER), "nothing in it is learned"),
    (conversation(USER, {**ANSWER, "loss": False}), "nothing in it is learned"),
    (conversation(USER, {**ANSWER, "loss": 2}), "must be true or false"),
    (conversation(USER, {"role": "assistant", "content": " "}), "message 1 is an empty answer"),
    (conversation(ANSWER, USER), "a user message must come before"),
    (conversation(USER, USER, ANSWER), "both user messages"),
    (conversation(USER, {"role": "observation", "content": "x"}), "must follow the assistant"),
    (conversation({"role": "boss", "content": "x"}), "unknown role"),
    (conversation(USER, {"role": "assistant"}), "no key 'content'"),
    (conversation(USER, ANSWER, tools=TOOLS * 2), "two tools are named 'weather'"),
    (conversation(USER, ANSWER, tools="[{"), "must be JSON"),
    (conversation(USER, {"role": "tool", "name": "weather", "observation": "1", "parameters": "x"}), "must be JSON"),
    (conversation(USER, {"role": "tool", "name": "weather", "parameters": {}}), "without 'observation'"),
    ({"messages": [USER, {**ANSWER, "weight": 3}]}, "must be 0 or 1"),
    ({"instruction": "x"}, "no 'output'"),
    ({"prompt": "x", "response": 3}, "must be a text"),
    ({"prompt": "x", "response": "y", "history": ["z"]}, "question, answer"),
    ({"text": ""}, "not empty"),
]


@pytest.mark.parametrize(("value", "message"), BAD)
def test_a_bad_row_is_named_with_its_reason_and_the_others_go_on(value: Any, message: str) -> None:
    report = Report()
    rows = [Row(Path("a.jsonl"), 1, CHAT), Row(Path("a.jsonl"), 7, value), Row(Path("a.jsonl"), 8, CHAT)]
    assert len(list(examples(rows, tokenizer(), 100, report))) == 2
    ((place, reason),) = report.bad
    assert place == "a.jsonl, line 7"
    assert message in reason


def test_cut_rows_and_unused_keys_are_told() -> None:
    report = Report()
    long = conversation(USER, {"role": "assistant", "content": "word " * 50, "score": 1}, id=3)
    late = conversation({"role": "user", "content": "word " * 50}, ANSWER)
    rows = [Row(Path("a.jsonl"), number, value) for number, value in enumerate((long, late), 1)]
    (found,) = examples(rows, tokenizer(), 30, report)
    assert len(found.ids) == len(found.learned) == 30
    assert report.cut[0][0] == "a.jsonl, line 1"
    assert set(report.unused) == {"id", "score of a message"}
    assert "cut at 30 tokens nothing in it is learned" in report.bad[0][1]


def test_a_long_text_is_divided_and_nothing_of_it_lost() -> None:
    language, text = tokenizer(), "some words 你好 " * 40
    pieces = list(encode_text(text, language, 20))
    assert all(len(piece.ids) <= 20 and piece.ids[:2] == language("")["input_ids"] for piece in pieces)
    body = [token for piece in pieces for token in piece.ids[2:]]
    assert body == [*language(text)["input_ids"][2:], language.tokenizer.eos_id]
    assert all(piece.learned == [False, False, *[True] * (len(piece.ids) - 2)] for piece in pieces)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_check_says_all_of_it(language: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join([json.dumps(CHAT), json.dumps(TOOL), "{", json.dumps({**CHAT, "id": 1})]))
    text, good = check(str(file), tokenizer(), 1000, Words(language))
    assert not good
    for part in (f"{file}, line 3: it is not JSON", "chat 2, tools 1", "id 1", "[[\n hi<|user|>]]"):
        assert part in text
    colored, _ = check(str(file), tokenizer(), 1000, Words(language), color=True)
    assert "\x1b[32m" in colored


def test_named_columns(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("content,summary\nq,a\n")
    (found,) = read_examples(str(file), tokenizer(), 99, Report(), "content,summary")
    assert found == example_of({"prompt": "q", "response": "a"})
    report = Report()
    assert not list(read_examples(str(file), tokenizer(), 99, report, "x,summary"))
    assert "no column 'x'" in report.bad[0][1]
    with pytest.raises(ChatGLMError, match="two or three names"):
        Columns.parse("x")
