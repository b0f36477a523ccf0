"""Every recorded result of the official tokenizers: ids, pieces, texts, batches, prompts."""

import pytest
from tokenizers_at_hand import SETS, golden, tokenizer

from chatglm.model.marked_text import MarkedText

SETTINGS = [
    ("chatglm3.{}.json", "chatglm3", False),
    ("chatglm3.{}.encode_special_tokens.json", "chatglm3", True),
    ("chatglm3_2024.tf440.{}.encode_special_tokens.json", "chatglm3", "all"),
    ("chatglm2.{}.json", "chatglm2", False),
]
FAMILIES = [(root, name, *setting) for root, name in SETS for setting in SETTINGS]
NAMES = [f"{name}-{version}-{mode}" for _, name, _, version, mode in FAMILIES]


def check(expected, function, *args, **kwargs):
    """The recorded value, or an error where one is recorded: of whatever type."""
    if "ok" in expected:
        assert function(*args, **kwargs) == expected["ok"]
    else:
        with pytest.raises((ValueError, IndexError)):
            function(*args, **kwargs)


@pytest.fixture(params=FAMILIES, ids=NAMES)
def family(request):
    root, name, file, version, mode = request.param
    return golden(root, "strings.json"), golden(root, file.format(name)), tokenizer(name, version, mode)


def test_names_and_sizes(family):
    _, data, found = family
    assert found.vocab_size == len(found) == len(found.get_vocab()) == data["vocab_size"]
    assert found.tokenizer.special_tokens == data["special_ids"]
    assert {**data["commands"], **data["special_ids"]} == {
        name: found.get_command(name) for name in [*data["commands"], *data["special_ids"]]
    }
    assert (found.pad_token, found.eos_token, found.unk_token) == (
        data["pad_token"],
        data["eos_token"],
        data["unk_token"],
    )
    assert (found.pad_token_id, found.bos_token_id, found.eos_token_id, found.unk_token_id) == (0, 1, 2, 0)


def test_strings(family):
    strings, data, found = family
    assert len(strings) == len(data["strings"]) > 70
    sources = {
        "sp_ids": lambda text, row: found.tokenizer.encode(text),
        "tokens": lambda text, row: found.tokenize(text),
        "input_ids": lambda text, row: found(text)["input_ids"],
        "input_ids_no_special": lambda text, row: found(text, add_special_tokens=False)["input_ids"],
        "decode_full": lambda text, row: found.decode(row["input_ids"]["ok"]),
        "decode_sp": lambda text, row: found.tokenizer.decode(row["sp_ids"]["ok"]),
        "decode": lambda text, row: found.decode(row["input_ids_no_special"]["ok"]),
    }
    for string, row in zip(strings, data["strings"], strict=True):
        for key, expected in row.items():
            check(expected, sources[key], string["text"], row)


def test_decoding(family):
    _, data, found = family
    for case in data.get("decode_cases", {}).values():
        check(case["decode"], found.decode, case["ids"])
        check(case["tokens"], found.convert_ids_to_tokens, case["ids"])
        check(case["sp_decode"], found.tokenizer.decode, case["ids"])
        # Officially skip_special_tokens does nothing; here special tokens have no text with it.
        names = set(data["special_ids"].values())
        if names.isdisjoint(case["ids"]) or found.version == "chatglm2":
            check(case["decode_skip_special"], found.decode, case["ids"], skip_special_tokens=True)
    for case in data.get("incremental", []):
        prefixes = [found.decode(case["ids"][:length]) for length in range(len(case["ids"]) + 1)]
        assert prefixes == case["decode_prefixes"]


def test_batches(family):
    _, data, found = family
    for case in data.get("batches", []):
        if "texts" in case:
            check(case["result"], lambda case: dict(found(case["texts"], **case["kwargs"])), case)
            continue
        firsts, seconds = ([pair[side] for pair in case["pairs"]] for side in (0, 1))
        check(
            case["result"], lambda *texts, **options: dict(found(*texts, **options)), firsts, seconds, **case["kwargs"]
        )
        check(case["result"], lambda case: dict(found([tuple(p) for p in case["pairs"]], **case["kwargs"])), case)


@pytest.mark.parametrize(("root", "name"), SETS, ids=[name for _, name in SETS])
def test_chat_prompts(root, name):
    found, data = tokenizer(name), golden(root, f"chat_input.{name}.json")

    def build(case):
        built = found.build_chat_input(case["query"], history=case.get("history"), role=case["role"])
        return {key: value.tolist() for key, value in built.items()}

    for case in data["conversations"]:
        check(case["result"], build, case)
        if "ok" in case["result"]:
            messages = [*(case.get("history") or []), {"role": case["role"], "content": case["query"]}]
            (expected,) = case["result"]["ok"]["input_ids"]
            assert found.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == expected
    for case in data["messages"]:
        check(case["result"], found.build_single_message, case["role"], case.get("metadata", ""), case["message"])


SPELLS_A_TOKEN = {"query_special_lookalike", "query_gmask"}  # as text nobody can tell who wrote them
BREAKS_ITS_LINE = {"metadata_multiline"}  # refused by the template


@pytest.mark.parametrize(("root", "name"), SETS, ids=[name for _, name in SETS])
def test_the_text_of_a_prompt_stands_for_its_ids(root, name):
    found = tokenizer(name)
    marked = MarkedText(found.tokenizer.special_tokens, {})
    for case in golden(root, f"chat_input.{name}.json")["conversations"]:
        if "ok" in case["result"] and case["name"] not in SPELLS_A_TOKEN | BREAKS_ITS_LINE:
            messages = [*(case.get("history") or []), {"role": case["role"], "content": case["query"]}]
            text = found.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            assert [marked.encode(text, found.tokenizer.encode)] == case["result"]["ok"]["input_ids"]


@pytest.mark.parametrize(("root", "name"), SETS, ids=[name for _, name in SETS])
def test_chatglm2_prompts(root, name):
    found = tokenizer(name, "chatglm2")
    for case in golden(root, f"chatglm2_prompt.{name}.json"):
        text, ids = case["result"]["prompt"]["ok"], case["result"]["input_ids"]["ok"]
        assert found.build_prompt(case["query"], case["history"]) == text
        assert found(text)["input_ids"] == ids
        turns = [turn for pair in case["history"] for turn in pair] + [case["query"]]
        messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
        assert found.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == ids
        assert found.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == "[gMASK]sop" + text
