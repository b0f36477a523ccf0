"""A needle in a haystack: one sentence with a number, somewhere in a long text of no interest, to be found again.

The text is made here, from a seed: every length, depth and language has the same text on every machine with the same
tokenizer.
"""

import random
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from chatglm.evaluate.item import Item
from chatglm.evaluate.task import Protocol, Task

DEPTHS = (0, 25, 50, 75, 100)  # percent of the text before the needle
ROOM = 160  # tokens for the question, the needle and the answer
SHORTEST = 256
_PARTS = {
    "en": (
        ("On Monday", "After the rain", "Every spring", "Before noon", "Late in the year", "Not far from here"),
        ("the baker", "a young teacher", "the old gardener", "our neighbour", "the ferryman", "a quiet painter"),
        ("walks slowly along", "tells a story about", "keeps a notebook on", "likes to look at", "often returns to"),
        ("the river.", "the stone bridge.", "the small market.", "the northern hills.", "the railway station."),
    ),
    "zh": (
        ("星期一早上，", "雨停以后，", "每年春天，", "中午之前，", "年底的时候，", "离这里不远，"),
        ("面包师傅", "一位年轻的老师", "老园丁", "我们的邻居", "摆渡人", "一个安静的画家"),
        ("沿着小路走向", "常常讲起", "在本子里记下", "喜欢远远地看着", "又一次回到了"),
        ("那条河。", "石头桥。", "小集市。", "北边的山。", "火车站。"),
    ),
}
_NEEDLE = {"en": "The secret number of the lighthouse is {n}.", "zh": "灯塔的秘密号码是{n}。"}
_QUESTION = {
    "en": "What is the secret number of the lighthouse? Answer with the number only.",
    "zh": "灯塔的秘密号码是多少？只回答号码。",
}


def haystacks(wanted: Mapping[str, Any], count: Callable[[str], int]) -> list[Item]:
    """An item for each length, depth and language.

    Args:
        wanted: `context`, the tokens a prompt and its answer may have; `lengths` and `depths` where the user gave them.
        count: tokens of a text.
    """
    lengths = wanted.get("lengths") or _doubling(wanted["context"])
    depths = wanted.get("depths") or DEPTHS
    found: list[Item] = []
    size = cache(count)
    for language in _PARTS:
        found += [_item(language, length, depth, size) for length in lengths for depth in depths]
    return found


def _doubling(context: int) -> list[int]:
    lengths = [SHORTEST]
    while lengths[-1] * 2 <= min(context, 131072):
        lengths.append(lengths[-1] * 2)
    return lengths


def _item(language: str, length: int, depth: int, size: Callable[[str], int]) -> Item:
    draw = random.Random(f"{language} {length} {depth}")
    number = str(draw.randrange(100000, 1000000))
    sentences: list[str] = []
    total = 0
    while total < length - ROOM:
        sentence = "".join((" " if language == "en" else "").join(map(draw.choice, _PARTS[language])))
        total += size(sentence)
        sentences.append(sentence)
    sentences.insert(round(len(sentences) * depth / 100), _NEEDLE[language].format(n=number))
    joined = (" " if language == "en" else "").join(sentences)
    extra = {"length": length, "depth": depth}
    return Item(f"{language}/{length}/{depth}", language, _QUESTION[language], (number,), passage=joined, extra=extra)


TASK = Task(
    name="needle",
    title="Needle in a haystack",
    source="made by this package",
    licence="Apache-2.0",
    shape="long",
    made=haystacks,
    protocols={
        "chat": Protocol(
            kind="generate",
            template="{passage}\n\n{question}",
            extractor="whole",
            metric="contains",
            prompting="chat",
            max_tokens=32,
            note="one sentence with a number of six digits in a text of other sentences; the number must be said",
        ),
    },
)
