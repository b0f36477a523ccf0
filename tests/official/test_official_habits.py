"""`model.chat` and its relatives against recorded results of the official code, and against what it gets wrong."""

import copy
import json
from typing import Any

import pytest
import torch
from golden_data import golden_file
from transformers import AutoModel, DynamicCache, LogitsProcessorList

import chatglm  # noqa: F401 - the one added line
from chatglm.chat.message import Done
from chatglm.errors import PromptError
from chatglm.model.tokenizer import ChatGLMTokenizer
from chatglm.official.chat import EarlierTurns
from chatglm.official.reply import reply
from chatglm.own_engine import engine_for

FOLDER = golden_file("generation")
TOKENIZER = golden_file("tiny_tokenizer")
CHAT3: list[dict[str, Any]] = json.loads((FOLDER / "chat.json").read_text())
CHAT2: list[dict[str, Any]] = json.loads((FOLDER / "chat2.json").read_text())
STREAM = [case for case in json.loads((FOLDER / "cases.json").read_text()) if case["mode"] == "stream_generate"]


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModel.from_pretrained(FOLDER / "model", trust_remote_code=True).eval()


class Unmasked(ChatGLMTokenizer):
    """The recorded model has random weights and speaks ids that have no text, which we would keep it from."""

    def __len__(self) -> int:
        return 1536


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    file = str(TOKENIZER / "tokenizer.model")
    return {"chatglm2": ChatGLMTokenizer(file, version="chatglm2"), "chatglm3": Unmasked(file, version="chatglm3")}


def official_history(history: list[Any]) -> list[Any]:
    return [tuple(item) if isinstance(item, list) else item for item in history]


def ended_by_length(model: Any, tokenizer: Any, case: dict[str, Any]) -> bool:
    history = [*case["history"], {"role": case["role"], "content": case["query"]}]
    answer = reply(model, tokenizer, history, **case["gen_kwargs"])
    return [event for event in answer if isinstance(event, Done)][-1].reason == "length"


DEFECTS = {"chat_bad_words_official_bug", "chat_prompt_at_max_length_tf430_only"}


@pytest.mark.parametrize("case", [c for c in CHAT3 if c["name"] not in DEFECTS], ids=lambda c: c["name"])
def test_chatglm3(model: Any, tokenizers: Any, case: dict[str, Any]) -> None:
    history = official_history(case["history"])
    before = copy.deepcopy(history)
    options = {"history": history, "role": case["role"], **case["gen_kwargs"]}
    if case["mode"] == "chat":
        response, after = model.chat(tokenizers["chatglm3"], case["query"], **options)
        recorded = case["expected"]["response"]
    else:
        steps = list(model.stream_chat(tokenizers["chatglm3"], case["query"], **options))
        response, after = steps[-1]
        recorded = case["expected"]["responses"][-1]
        shown = [step for step, _ in steps]
        assert all(later.startswith(earlier) for earlier, later in zip(shown, shown[1:], strict=False))
        assert all(response.startswith(step) for step in case["expected"]["responses"])
    assert history == before, "the caller's history was changed"
    assert len(after) == len(case["expected"]["history"])
    assert after[:-1] == case["expected"]["history"][:-1]
    if ended_by_length(model, tokenizers["chatglm3"], case):  # where the official code loses the last token
        assert response.startswith(recorded)
    else:
        assert response == recorded
        assert after == case["expected"]["history"]


@pytest.mark.parametrize("case", CHAT2, ids=lambda c: c["name"])
def test_chatglm2(model: Any, tokenizers: Any, case: dict[str, Any]) -> None:
    history = official_history(case["history"])
    if case["mode"] == "chat":
        response, after = model.chat(tokenizers["chatglm2"], case["query"], history=history, **case["gen_kwargs"])
        assert response == case["expected"]["response"]
    else:
        steps = list(model.stream_chat(tokenizers["chatglm2"], case["query"], history=history, **case["gen_kwargs"]))
        response, after = steps[-1]
        recorded = case["expected"]["responses"][-1]
        # The official stream never shows an unfinished character, not even as the last thing that was written.
        assert response in (recorded, recorded + "\ufffd")
        case["expected"]["history"][-1][1] = response
    assert after == official_history(case["expected"]["history"])


def test_stream_generate(model: Any) -> None:
    for case in STREAM:
        inputs = {name: torch.tensor(case[name]) for name in ("attention_mask", "position_ids")}
        steps = list(
            model.stream_generate(torch.tensor(case["input_ids"]), pad_token_id=0, **inputs, **case["gen_kwargs"])
        )
        assert steps[0].tolist() == case["expected"]["first_step"]
        assert steps[-1].tolist() == case["expected"]["sequences"]
        assert len(steps) == case["expected"]["n_steps"]


def test_a_later_turn_equals_the_whole_conversation(model: Any, tokenizers: Any) -> None:
    """The official cached turns begin with a stray `[gMASK] sop`; ours see what a fresh model would see."""
    recorded = json.loads((FOLDER / "chat_past.json").read_text())
    tokenizer, history, past = tokenizers["chatglm3"], [], None
    for index, turn in enumerate(recorded["turns"]):
        options = {"do_sample": False, "max_new_tokens": 60}
        fresh, _ = copy.deepcopy(model).chat(tokenizer, turn["query"], history=history, **options)
        steps = model.stream_chat(
            tokenizer, turn["query"], history=history, past_key_values=past, return_past_key_values=True, **options
        )
        for response, history, past in steps:  # noqa: B007
            pass
        assert response == fresh
        assert isinstance(past, EarlierTurns)
        if index == 0:
            assert response.startswith(turn["response"])
    assert engine_for(model, tokenizer).stats().hit_rate > 0.3


def test_bad_words_do_not_derail_the_answer(model: Any, tokenizers: Any) -> None:
    case = next(case for case in CHAT3 if case["name"] == "chat_bad_words_official_bug")
    assert set(case["expected"]["response"]) == {"\x02"}
    response, _ = model.chat(tokenizers["chatglm3"], case["query"], history=[], **case["gen_kwargs"])
    assert "\x02" not in response


def test_bad_words_as_text_are_never_written(model: Any, tokenizers: Any) -> None:
    tokenizer = tokenizers["chatglm3"]
    options = {"do_sample": False, "max_new_tokens": 40}
    plain, _ = model.chat(tokenizer, "你好", **options)
    words = [plain[3:6], plain[10:13]]  # begin and end inside tokens
    clean, _ = model.chat(tokenizer, "你好", bad_words=words, **options)
    assert clean
    assert not any(word in clean for word in words)


def test_a_prompt_without_room_is_an_error_with_numbers(model: Any, tokenizers: Any) -> None:
    with pytest.raises(PromptError, match=r"8 tokens and max_length is 8"):
        model.chat(tokenizers["chatglm3"], "你好", max_length=8)
    context = model.config.seq_length
    with pytest.raises(PromptError, match=f"context is {context}"):
        model.chat(tokenizers["chatglm3"], "你好" * context)


def test_generate_options_give_the_same_answer(model: Any, tokenizers: Any) -> None:
    """What goes to generate() (here because of a logits processor) equals what the engine says."""
    tokenizer, processors = tokenizers["chatglm3"], LogitsProcessorList([lambda ids, scores: scores])
    options = {"do_sample": False, "max_new_tokens": 20, "repetition_penalty": 1.2}
    by_engine = model.chat(tokenizer, "你好", **options)
    assert model.chat(tokenizer, "你好", logits_processor=processors, **options) == by_engine
    streamed = list(model.stream_chat(tokenizer, "你好", logits_processor=processors, **options))
    assert streamed[-1] == by_engine
    assert len(processors) == 1, "the caller's list was changed"


def test_seeds(model: Any, tokenizers: Any) -> None:
    tokenizer = tokenizers["chatglm3"]
    answers = [model.chat(tokenizer, "你好", seed=seed, max_new_tokens=20)[0] for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_closing_the_stream_ends_the_generation(model: Any, tokenizers: Any) -> None:
    stream = model.stream_chat(tokenizers["chatglm3"], "你好", do_sample=False)
    next(stream)
    stream.close()
    assert not engine_for(model, tokenizers["chatglm3"]).scheduler.has_work


def test_changed_weights_are_noticed(model: Any, tokenizers: Any) -> None:
    """Keys and values cached before a change of the weights must not be used after it."""
    tokenizer, changed = tokenizers["chatglm3"], copy.deepcopy(model)
    options = {"do_sample": False, "max_new_tokens": 12}
    first = changed.chat(tokenizer, "你好", **options)[0]
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    after = changed.chat(tokenizer, "你好", **options)[0]
    assert after == copy.deepcopy(changed).chat(tokenizer, "你好", **options)[0] != first
    changed.bfloat16()
    assert changed.chat(tokenizer, "你好", **options)[0] == copy.deepcopy(changed).chat(tokenizer, "你好", **options)[0]


def test_foreign_past_key_values_are_refused(model: Any, tokenizers: Any) -> None:
    stream = model.stream_chat(tokenizers["chatglm3"], "你好", past_key_values=DynamicCache())
    with pytest.raises(PromptError, match="DynamicCache"):
        next(stream)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantize_answers_in_place(model: Any, tokenizers: Any, bits: int) -> None:
    quantized = copy.deepcopy(model)
    assert quantized.quantize(bits) is quantized
    response, _ = quantized.chat(tokenizers["chatglm3"], "你好", do_sample=False, max_new_tokens=5)
    assert response
    with pytest.raises(TypeError, match="group"):
        quantized.quantize(bits, group=32)


def test_chatglm2_builders(model: Any, tokenizers: Any) -> None:
    recorded = json.loads(golden_file("tokenization/chatglm2_prompt.tiny.json").read_text())
    for case in recorded:
        arguments = (tokenizers["chatglm2"], case["query"], official_history(case["history"]))
        for name, build in (("input_ids", model.build_inputs), ("stream_input_ids", model.build_stream_inputs)):
            if "ok" in case["result"][name]:
                assert build(*arguments)["input_ids"][0].tolist() == case["result"][name]["ok"], case["name"]
    assert len(recorded) > 3
