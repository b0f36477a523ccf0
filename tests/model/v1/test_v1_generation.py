"""generate() gives the official sequences: greedy, penalties, ends, batches with left padding, beams, step by step."""

from typing import Any

import pytest
import torch
from golden_v1 import golden_file, golden_json
from transformers import LogitsProcessor, LogitsProcessorList

from chatglm.model.v1.network import ChatGLM1ForConditionalGeneration

CASES = golden_json("generation/cases.json")


class Invalid(LogitsProcessor):
    """The official processor, which some cases were recorded with."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if torch.isnan(scores).any() or torch.isinf(scores).any():
            scores.zero_()
            scores[..., 5] = 5e4
        return scores


@pytest.fixture(scope="module")
def model() -> ChatGLM1ForConditionalGeneration:
    found: ChatGLM1ForConditionalGeneration = ChatGLM1ForConditionalGeneration.from_pretrained(
        golden_file("generation/model")
    )
    return found.eval()


def inputs_of(case: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {"input_ids": torch.tensor(case["input_ids"])}
    if "position_ids" in case["passed"]:
        given["position_ids"] = torch.tensor(case["position_ids"])
    if "attention_mask" in case["passed"]:
        rows = [[[bit == "1" for bit in row] for row in rows] for rows in case["attention_mask_rows"]]
        given["attention_mask"] = torch.tensor(rows)[:, None]
    return given


@pytest.mark.parametrize("case", [case for case in CASES if case["mode"] == "generate"], ids=lambda case: case["name"])
def test_official_sequences(case: dict[str, Any], model: ChatGLM1ForConditionalGeneration) -> None:
    if case["name"] == "greedy_at_max_length":  # officially one token more than asked for
        with pytest.raises(ValueError, match="max_length"):
            model.generate(**inputs_of(case), **case["gen_kwargs"])
        return
    processors = LogitsProcessorList([Invalid()] if case["InvalidScoreLogitsProcessor"] else [])
    found = model.generate(**inputs_of(case), **case["gen_kwargs"], logits_processor=processors)
    ids = found if isinstance(found, torch.Tensor) else found.sequences
    assert ids.tolist() == case["expected"]["sequences"]
    if "sequences_scores" in case["expected"]:
        expected = torch.tensor(case["expected"]["sequences_scores"])
        # The transformers of that time divided by the length of all ids, today's divides by that of the new ones.
        expected *= ids.shape[1] / (ids.shape[1] - len(case["input_ids"][0]))
        torch.testing.assert_close(found.sequences_scores, expected, atol=1e-4, rtol=1e-4)


def test_a_plain_mask_of_padding_says_the_same(model: ChatGLM1ForConditionalGeneration) -> None:
    case = next(case for case in CASES if case["name"] == "batch")
    ids = torch.tensor(case["input_ids"])
    found = model.generate(ids, attention_mask=(ids != 3).long(), **case["gen_kwargs"])
    assert found.tolist() == case["expected"]["sequences"]


@pytest.mark.parametrize("options", [{"use_cache": False}, {"prompt_lookup_num_tokens": 3}])
def test_other_ways_to_the_same_answer(model: ChatGLM1ForConditionalGeneration, options: dict[str, Any]) -> None:
    for case in [case for case in CASES if case["name"] in ("greedy_0", "batch")]:
        if len(case["input_ids"]) == 1 or "use_cache" in options:
            found = model.generate(**inputs_of(case), **case["gen_kwargs"], **options)
            assert found.tolist() == case["expected"]["sequences"]
