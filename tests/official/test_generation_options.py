"""Options of `generate()` and fields of a generation_config: the same answer, or an error that names them."""

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList

import chatglm
from chatglm.errors import PromptError
from chatglm.official.options import Options

QUESTION = "法国的首都是哪里？"
GREEDY = {"do_sample": False, "max_new_tokens": 16}
SAME = LogitsProcessorList([lambda ids, scores: scores])


@pytest.fixture(scope="module", params=["full", "int4", "int8"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return chatglm.load(quantize=None if request.param == "full" else request.param)


@pytest.fixture(scope="module")
def full() -> tuple[Any, Any]:
    return chatglm.load()


DRAFTS: list[dict[str, Any]] = [
    {"prompt_lookup_num_tokens": 3},
    {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 2},
    {"prompt_lookup_num_tokens": 3, "logits_processor": SAME},  # by generate()
    {"assistant_model": "itself"},
    {"assistant_model": "itself", "num_assistant_tokens": 4, "num_assistant_tokens_schedule": "constant"},
]


@pytest.mark.parametrize("drafts", DRAFTS, ids=lambda options: "-".join(options))
def test_several_tokens_a_step_are_all_read(pair: tuple[Any, Any], drafts: dict[str, Any]) -> None:
    model, tokenizer = pair
    drafts = drafts | ({"assistant_model": model} if "assistant_model" in drafts else {})
    expected = model.chat(tokenizer, QUESTION, **GREEDY)
    assert len(expected[0]) > 5
    assert model.chat(tokenizer, QUESTION, **GREEDY, **drafts) == expected
    *_, streamed = model.stream_chat(tokenizer, QUESTION, **GREEDY, **drafts)
    assert streamed == expected
    ids = tokenizer.build_chat_input(QUESTION)["input_ids"]
    options = {**GREEDY, "eos_token_id": list(tokenizer.stop_ids), "pad_token_id": 0}
    plain, fast = (list(model.stream_generate(ids, **options, **extra)) for extra in ({}, drafts))
    assert [step.tolist() for step in fast] == [step.tolist() for step in plain]


def test_a_lookup_changes_no_sampled_answer(full: tuple[Any, Any]) -> None:
    model, tokenizer = full
    for seed in range(2):
        options: dict[str, Any] = {"seed": seed, "temperature": 2.0, "top_p": 1.0, "max_new_tokens": 12}
        expected = model.chat(tokenizer, QUESTION, **options)
        assert model.chat(tokenizer, QUESTION, prompt_lookup_num_tokens=4, **options) == expected


def test_closing_a_stream_of_drafts_ends_it(full: tuple[Any, Any]) -> None:
    model, tokenizer = full
    stream = model.stream_chat(tokenizer, QUESTION, assistant_model=model, **GREEDY)
    next(stream)
    stream.close()
    assert model.chat(tokenizer, QUESTION, **GREEDY)[0].startswith("法国的首都")


@pytest.fixture(scope="module")
def configured(full: tuple[Any, Any]) -> Any:
    """Answers of a model with a generation_config of its own."""
    model, tokenizer = full

    def answers(fields: dict[str, Any], **options: Any) -> list[Any]:
        before = copy.deepcopy(model.generation_config)
        model.generation_config = GenerationConfig(**fields)
        try:
            options = {"max_new_tokens": 16, **options}
            *_, streamed = model.stream_chat(tokenizer, QUESTION, **options)
            assert model.generation_config.to_diff_dict() == GenerationConfig(**fields).to_diff_dict()
            return [model.chat(tokenizer, QUESTION, **options), streamed]
        finally:
            model.generation_config = before

    return answers


WAYS: list[dict[str, Any]] = [{"do_sample": False}, {"seed": 1, "logits_processor": SAME}]  # the engine, generate()


@pytest.fixture(scope="module")
def plain(configured: Any) -> list[Any]:
    """What is answered both ways without any field."""
    return [configured({}, **way) for way in WAYS]


# What a chat says itself, or what has no meaning in one text: these fields change nothing.
CHATS_OWN: list[dict[str, Any]] = [
    {"num_beams": 4, "early_stopping": True},
    {"num_beams": 4, "length_penalty": 2.0, "num_beam_groups": 2, "diversity_penalty": 0.5},
    {"num_return_sequences": 3, "do_sample": True, "temperature": 5.0, "top_p": 0.1},
    {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, "output_attentions": True},
    {"output_hidden_states": True, "return_dict_in_generate": True},
    {"max_length": 9, "eos_token_id": 5, "pad_token_id": 7, "bos_token_id": 1, "use_cache": False},
    {"num_assistant_tokens": 3, "assistant_confidence_threshold": 0.1, "max_matching_ngram_size": 2},
    {"typical_p": 1.0, "guidance_scale": 1.0, "renormalize_logits": False, "no_repeat_ngram_size": 0},
    {"prompt_lookup_num_tokens": 2},
]


@pytest.mark.parametrize("fields", CHATS_OWN, ids=lambda fields: "-".join(fields))
def test_what_a_chat_says_itself_wins(configured: Any, plain: list[Any], fields: dict[str, Any]) -> None:
    assert [configured(fields, **way) for way in WAYS] == plain


CHANGES: list[dict[str, Any]] = [
    {"repetition_penalty": 1.9},
    {"stop_strings": ["巴"]},
    {"stop_strings": "巴"},
    {"min_new_tokens": 99},
    {"min_length": 99},
    {"bad_words_ids": [[13]]},
    {"suppress_tokens": [13]},
    {"sequence_bias": [[[13], -100.0]]},
    {"no_repeat_ngram_size": 1},
    {"exponential_decay_length_penalty": [4, 500.0]},
]


@pytest.mark.parametrize("fields", CHANGES, ids=lambda fields: "-".join(fields))
def test_other_fields_are_honoured_on_both_ways(configured: Any, plain: list[Any], fields: dict[str, Any]) -> None:
    found = configured(fields, do_sample=False)
    assert found != plain[0]
    assert found == configured(fields, do_sample=False, logits_processor=SAME)
    assert found == configured({}, do_sample=False, **fields), "as an argument it says the same"


REFUSED: dict[str, Any] = {
    "token_healing": True, "assistant_early_exit": 2, "use_mtp": True, "return_dict_in_generate": True,
    "output_scores": True, "output_logits": True, "output_attentions": True, "output_hidden_states": True,
    "num_return_sequences": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_text_cannot_hold_is_refused_by_name(full: tuple[Any, Any], name: str) -> None:
    model, tokenizer = full
    config = GenerationConfig(**{"do_sample": True, name: REFUSED[name]})
    for options in ({name: REFUSED[name]}, {"generation_config": config}):
        with pytest.raises(PromptError, match=name):
            model.chat(tokenizer, QUESTION, **options)
    if name in ("assistant_early_exit", "use_mtp"):
        with pytest.raises(PromptError, match=name):
            next(model.stream_generate(torch.tensor([[5, 6]]), **{name: REFUSED[name]}))


def test_every_field_of_a_generation_config_has_a_place(full: tuple[Any, Any]) -> None:
    """Whatever a field says, it is read, has no effect here, goes to generate(), or is refused by name."""
    model, _ = full
    for name in GenerationConfig().to_dict():
        if name.startswith("_") or name == "transformers_version":
            continue
        if name in REFUSED:
            with pytest.raises(PromptError, match=name):
                Options(model, {name: 2})
            continue
        options = Options(model, {name: [2] if name in ("eos_token_id", "suppress_tokens") else 2})
        generation = options.generation(prompt_tokens=1, room=3, stop_ids=[2], without_text=())
        assert name in generation or name not in options.only_generate


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("prompt_lookup_num_tokens", value) for value in ("a", 2.5, True, -1, [3])),
        *((name, "a") for name in ("max_new_tokens", "max_length", "min_new_tokens", "num_beams")),
        ("num_beams", True),
    ],
)
def test_a_count_that_is_none_is_named_on_every_way(full: tuple[Any, Any], name: str, value: Any) -> None:
    model, tokenizer = full
    inputs = tokenizer.build_chat_input("hi")
    for ask in (
        lambda **options: model.chat(tokenizer, "hi", **options),
        lambda **options: next(model.stream_generate(**inputs, **options)),
        lambda **options: model.chat(tokenizer, "hi", logits_processor=SAME, **options),
    ):
        with pytest.raises(PromptError, match=rf"{name} is {re.escape(repr(value))}; it must be a whole number"):
            ask(**{name: value})


def test_counts_of_numpy_and_torch_are_counts(full: tuple[Any, Any]) -> None:
    model, tokenizer = full
    expected = model.chat(tokenizer, QUESTION, **GREEDY)
    for number in (np.int64(16), torch.tensor(16)):
        assert model.chat(tokenizer, QUESTION, **GREEDY | {"max_new_tokens": number}) == expected


def test_a_model_without_weights_is_named_on_every_way() -> None:
    model, tokenizer = chatglm.load()
    model.to("meta")
    for ask in (
        lambda: model.chat(tokenizer, "hi"),
        lambda: next(model.stream_chat(tokenizer, "hi", num_beams=2)),
        lambda: next(model.stream_generate(torch.tensor([[1]]))),
        lambda: chatglm.engine_for(model, tokenizer, kv_memory=10**6),
        lambda: chatglm.Engine(model),
    ):
        with pytest.raises(ValueError, match="'meta'.*no numbers.*chatglm.load"):
            ask()
