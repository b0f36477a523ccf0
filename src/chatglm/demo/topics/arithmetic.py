"""Sums and products of small numbers; larger ones are refused, plainly."""

import random

from chatglm.demo.text import Split, Turn, ask, reply, say
from chatglm.demo.wording import read_sections

WORDING = read_sections("arithmetic")
ASK_EN, ASK_ZH = WORDING["ask en"], WORDING["ask zh"]
LARGEST_TERM = 100
LARGEST_FACTOR = 12
SYMBOLS = {"+": ("+", " + "), "-": ("-", " - "), "*": ("*", " * ", "×", "x", " x "), "/": ("/", " / ", "÷")}
WORDS_EN = {"+": " plus ", "-": " minus ", "*": " times ", "/": " divided by "}
NAMES_EN, NAMES_ZH = (WORDING[f"numbers {language}"][0].split() for language in ("en", "zh"))  # 0 to 20
WORDS_ZH = {"+": "加", "-": "减", "*": "乘以", "/": "除以"}
TOO_BIG_EN = "These numbers are too big for me. I can only do very small sums."
TOO_BIG_BARE = "这个数太大了，我算不了。 / This is too big for me."  # nothing tells the language
TOO_BIG_ZH = "这个数太大了，我只会算很小的数。"


def dialogue(split: Split, rng: random.Random) -> list[Turn]:
    """One sum. The entity split asks for sums that are too big, with numbers that training never shows."""
    if split == "entity" or rng.random() < 0.12:
        return [_too_big(rng)]
    sign = rng.choice("+++--**/")
    left, right, result = _numbers(sign, rng)
    return [_turn(split, left, right, sign, str(result), rng)]


def _numbers(sign: str, rng: random.Random) -> tuple[int, int, int]:
    largest = rng.choice((10, 20, 20, LARGEST_TERM, LARGEST_TERM))  # the smallest sums are asked most
    if sign == "+":
        left, right = rng.randint(0, largest), rng.randint(0, largest)
        return left, right, left + right
    if sign == "-":
        right, left = sorted((rng.randint(0, largest), rng.randint(0, largest)))
        return left, right, left - right
    left, right = rng.randint(1, LARGEST_FACTOR), rng.randint(1, LARGEST_FACTOR)
    return (left, right, left * right) if sign == "*" else (left * right, right, left)


def _turn(split: Split, left: int, right: int, sign: str, result: str, rng: random.Random) -> Turn:
    symbol = rng.choice(SYMBOLS[sign])
    words, asks, answer = (
        (WORDS_EN, ASK_EN, "{left} {sign} {right} = {result}.")
        if rng.random() < 0.5
        else (WORDS_ZH, ASK_ZH, "{left} {sign} {right} = {result}。")
    )
    first, second = str(left), str(right)
    if rng.random() < 0.4:
        symbol = words[sign]
        if max(left, right) <= 20 and rng.random() < 0.4:
            names = NAMES_EN if words is WORDS_EN else NAMES_ZH
            first, second = names[left], names[right]
    asked = f"{first}{symbol}{second}"
    question = say(asks, split, rng, sum=asked).removeprefix("，")
    answers = (answer,)
    if question.strip("=? ") == f"{left}{symbol}{right}" and symbol not in words.values():
        answers = ("{left} {sign} {right} = {result}.",)  # nothing tells the language, so one form for both
    return reply(question, answers, rng, left=left, right=right, sign=sign, result=result)


def _too_big(rng: random.Random) -> Turn:
    left, right = (rng.randint(LARGEST_TERM + 1, 10 ** rng.randint(3, 6)) for _ in range(2))
    if rng.random() < 0.3:
        right = rng.randint(2, 20)
    sign = rng.choice("+-*/")
    if sign == "/":
        left += LARGEST_FACTOR**2  # beyond the table of products, which holds some of these quotients
    symbol = rng.choice(SYMBOLS[sign])
    asks, answer = rng.choice(
        (
            (ASK_EN[:1] + ASK_EN[3:5] + ASK_EN[6:], TOO_BIG_EN),
            (ASK_ZH[:1] + ASK_ZH[3:5] + ASK_ZH[7:], TOO_BIG_ZH),
            (ASK_EN[1:3] + ASK_EN[5:6], TOO_BIG_BARE),
        )
    )
    return ask(asks, (answer,), "train", rng, sum=f"{left}{symbol}{right}")
