"""Answers a model gives to evaluation rows, compared with those that stand there."""

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from chatglm.chat.call import parse_tool_call
from chatglm.train.encoding import Example

if TYPE_CHECKING:
    from chatglm.model.tokenizer import ChatGLMTokenizer

UPSTREAM = ("rouge_chinese", "jieba", "nltk")  # what the official program measures with


@dataclass(frozen=True, slots=True)
class Question:
    """One turn of the assistant: what stands before it, and what it should say, without the token that ends it."""

    prompt_ids: list[int]
    wanted_ids: list[int]


def questions(example: Example) -> Iterator[Question]:
    """Each turn of an example that is learned to its end."""
    start = 0
    while start < len(example.ids):
        end = start
        while end < len(example.ids) and example.learned[end]:
            end += 1
        if end > start + 1:
            yield Question(example.ids[:start], example.ids[start : end - 1])
        start = max(end, start + 1)


def compare(model: Any, tokenizer: "ChatGLMTokenizer", question: Question, limit: int) -> dict[str, float]:
    """Have the model answer greedily, in at most `limit` tokens; scores in percent, each only where it means something.

    `exact`: the same text; `tool_call`: the same tool with equal arguments; and where their packages are installed
    rouge-1, rouge-2, rouge-l and bleu-4 over words, as the official program has them.
    """
    given = torch.tensor([question.prompt_ids], device=model.device)
    with torch.inference_mode():
        found = model.generate(
            input_ids=given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=limit,
            eos_token_id=list(tokenizer.stop_ids), pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
    said_ids = [token for token in found[0, len(question.prompt_ids) :].tolist() if token not in tokenizer.stop_ids]
    said, wanted = (str(tokenizer.decode(ids)).strip() for ids in (said_ids, question.wanted_ids))
    return scores(said, wanted)


def scores(said: str, wanted: str) -> dict[str, float]:
    """What two answers have in common; a call begins with the name of its tool and a line end."""
    result = {"exact": 100.0 * (said == wanted)}
    call = _call(wanted)
    if call is not None:
        return result | {"tool_call": 100.0 * (_call(said) == call)}
    if all(importlib.util.find_spec(package) is not None for package in UPSTREAM):
        result |= _upstream(said, wanted)
    return result


def _call(text: str) -> tuple[str, Mapping[str, Any]] | None:
    name, _, content = text.partition("\n")
    arguments = parse_tool_call(content, name.strip()).arguments if name.strip() and "tool_call(" in content else None
    return None if arguments is None else (name.strip(), arguments)


def _upstream(said: str, wanted: str) -> dict[str, float]:
    import jieba
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge_chinese import Rouge

    jieba.setLogLevel("ERROR")
    first, second = (list(jieba.cut(text)) for text in (said, wanted))
    names = ("rouge-1", "rouge-2", "rouge-l")
    if not said.strip() or not wanted.strip():
        return dict.fromkeys((*names, "bleu-4"), 0.0)
    (found,) = Rouge().get_scores(" ".join(first), " ".join(second))
    bleu = sentence_bleu([second], first, smoothing_function=SmoothingFunction().method3)
    return {name: 100 * found[name]["f"] for name in names} | {"bleu-4": 100 * float(bleu)}


def totals(found: list[dict[str, float]]) -> dict[str, tuple[float, int]]:
    """Sum and number of each score."""
    names = sorted({name for one in found for name in one})
    return {name: (sum(one.get(name, 0.0) for one in found), sum(name in one for one in found)) for name in names}


NAMES = ("exact", "tool_call", "rouge-1", "rouge-2", "rouge-l", "bleu-4")
