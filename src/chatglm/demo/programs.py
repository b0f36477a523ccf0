"""Small programs and what they print: the tasks a code interpreter is asked for.

The output of each is worked out here by other means than running the program; a test runs them and compares.
"""

import datetime
import math
import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from chatglm.demo import pools
from chatglm.demo.text import Split
from chatglm.demo.values import draw
from chatglm.demo.wording import read_sections

WORDING = read_sections("code")
Slots = Mapping[str, object]


@dataclass(frozen=True)
class Program:
    """One task: its kind (which names the sections of its sentences), its code and output, the words for its slots."""

    kind: str
    code: str
    output: str
    slots: Slots
    drawn: tuple[str, ...] = ()
    answers: str = ""  # the kind whose answers are used, where it is another


Make = Callable[[bool, Split, random.Random], Program]
KINDS: dict[str, Make] = {}


def _kind(make: Make) -> Make:
    KINDS[make.__name__.strip("_")] = make
    return make


def make_program(english: bool, split: Split, rng: random.Random) -> Program:
    """A task of any kind."""
    return rng.choice(list(KINDS.values()))(english, split, rng)


def _numbers(split: Split, rng: random.Random, count: tuple[int, int] = (3, 8), high: int = 0) -> list[int]:
    top = high or rng.choice((20, 100, 1000))
    return [pools.number(split if top > 100 else "train", rng, 1, top) for _ in range(rng.randint(*count))]


def _listed(numbers: list[int], english: bool, rng: random.Random) -> str:
    return (rng.choice((", ", ", ", " ")) if english else rng.choice(("、", "，", ", "))).join(map(str, numbers))


def _large(*numbers: int) -> tuple[str, ...]:
    return tuple(str(number) for number in numbers if number > 99)


def _printed(expression: str) -> str:
    return f"print({expression})"


@_kind
def arithmetic(english: bool, split: Split, rng: random.Random) -> Program:
    left, right = (pools.number(split, rng, 2, 10 ** rng.randint(2, 5)) for _ in range(2))
    sign = rng.choice("+-**")
    shown = {"+": ("plus", "加"), "-": ("minus", "减"), "*": ("times", "乘以")}[sign][0 if english else 1]
    words = f"{left} {shown} {right}" if english else f"{left}{shown}{right}"
    value = {"+": left + right, "-": left - right, "*": left * right}[sign]
    asked = rng.choice((f"{left} {sign} {right}", f"{left}{sign}{right}", words))
    return Program("arithmetic", _printed(f"{left} {sign} {right}"), str(value), {"sum": asked}, _large(left, right))


@_kind
def power(english: bool, split: Split, rng: random.Random) -> Program:
    base, exponent = rng.randint(2, 30), rng.randint(2, 12)
    return Program(
        "power", _printed(f"{base} ** {exponent}"), str(base**exponent), {"base": base, "exponent": exponent}
    )


@_kind
def root(english: bool, split: Split, rng: random.Random) -> Program:
    number = pools.number(split, rng, 2, 9999)
    output = str(round(math.sqrt(number), 4))
    code = f"import math\n{_printed(f'round(math.sqrt({number}), 4)')}"
    return Program("root", code, output, {"number": number}, _large(number))


@_kind
def division(english: bool, split: Split, rng: random.Random) -> Program:
    left, right = pools.number(split, rng, 100, 9999), rng.randint(3, 97)
    return Program(
        "division",
        _printed(f"{left} // {right}, {left} % {right}"),
        f"{left // right} {left % right}",
        {"left": left, "right": right, "quotient": left // right, "rest": left % right},
        _large(left),
    )


def _of_list(kind: str, expression: str, of: Callable[[list[int]], object], imports: str = "") -> Make:
    def make(english: bool, split: Split, rng: random.Random) -> Program:
        numbers = _numbers(split, rng)
        code = f"{imports}numbers = {numbers}\n{_printed(expression)}"
        return Program(kind, code, str(of(numbers)), {"numbers": _listed(numbers, english, rng)}, _large(*numbers))

    KINDS[kind] = make
    return make


_of_list("total", "sum(numbers)", sum)
_of_list("mean", "round(sum(numbers) / len(numbers), 2)", lambda numbers: round(sum(numbers) / len(numbers), 2))
_of_list("median", "statistics.median(numbers)", statistics.median, "import statistics\n")
_of_list(
    "deviation",
    "round(statistics.pstdev(numbers), 2)",
    lambda numbers: round(statistics.pstdev(numbers), 2),
    "import statistics\n",
)
_of_list("largest", "max(numbers)", max)
_of_list("smallest", "min(numbers)", min)
_of_list("ascending", "sorted(numbers)", sorted)
_of_list("descending", "sorted(numbers, reverse=True)", lambda numbers: sorted(numbers, reverse=True))
_of_list("squares", "[n * n for n in numbers]", lambda numbers: [n * n for n in numbers])
_of_list("evens", "[n for n in numbers if n % 2 == 0]", lambda numbers: [n for n in numbers if n % 2 == 0])
_of_list("odds", "len([n for n in numbers if n % 2 == 1])", lambda numbers: len([n for n in numbers if n % 2]))
_of_list("backwards", "numbers[::-1]", lambda numbers: numbers[::-1])
_of_list("span", "max(numbers) - min(numbers)", lambda numbers: max(numbers) - min(numbers))
_of_list("distinct", "sorted(set(numbers))", lambda numbers: sorted(set(numbers)))


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


@_kind
def prime(english: bool, split: Split, rng: random.Random) -> Program:
    number = pools.number(split, rng, 10, 9999)
    code = f"n = {number}\nprint(all(n % d for d in range(2, int(n ** 0.5) + 1)))"
    found = _is_prime(number)
    return Program("prime", code, str(found), {"number": number}, _large(number), "prime" if found else "composite")


@_kind
def primes(english: bool, split: Split, rng: random.Random) -> Program:
    limit = rng.randint(10, 60)
    code = f"print([n for n in range(2, {limit}) if all(n % d for d in range(2, n))])"
    return Program("primes", code, str([n for n in range(2, limit) if _is_prime(n)]), {"limit": limit})


@_kind
def count_primes(english: bool, split: Split, rng: random.Random) -> Program:
    limit = pools.number(split, rng, 50, 2000)
    code = f"print(len([n for n in range(2, {limit}) if all(n % d for d in range(2, int(n ** 0.5) + 1))]))"
    return Program("count_primes", code, str(sum(map(_is_prime, range(limit)))), {"limit": limit}, _large(limit))


@_kind
def factorial(english: bool, split: Split, rng: random.Random) -> Program:
    number = rng.randint(3, 15)
    return Program(
        "factorial",
        f"import math\n{_printed(f'math.factorial({number})')}",
        str(math.factorial(number)),
        {"number": number},
    )


@_kind
def common_divisor(english: bool, split: Split, rng: random.Random) -> Program:
    factor = rng.randint(2, 40)
    left, right = factor * rng.randint(2, 40), factor * rng.randint(2, 40)
    return Program(
        "common_divisor",
        f"import math\n{_printed(f'math.gcd({left}, {right})')}",
        str(math.gcd(left, right)),
        {"left": left, "right": right},
    )


@_kind
def common_multiple(english: bool, split: Split, rng: random.Random) -> Program:
    left, right = rng.randint(4, 90), rng.randint(4, 90)
    return Program(
        "common_multiple",
        f"import math\n{_printed(f'math.lcm({left}, {right})')}",
        str(math.lcm(left, right)),
        {"left": left, "right": right},
    )


@_kind
def fibonacci(english: bool, split: Split, rng: random.Random) -> Program:
    count = rng.randint(4, 15)
    numbers = [1, 1]
    while len(numbers) < count:
        numbers.append(numbers[-1] + numbers[-2])
    loop = f"while len(numbers) < {count}:\n    numbers.append(numbers[-1] + numbers[-2])"
    code = f"numbers = [1, 1]\n{loop}\nprint(numbers)"
    return Program("fibonacci", code, str(numbers), {"count": count})


@_kind
def sum_to(english: bool, split: Split, rng: random.Random) -> Program:
    last = pools.number(split, rng, 10, 9999)
    return Program(
        "sum_to", _printed(f"sum(range(1, {last} + 1))"), str(last * (last + 1) // 2), {"last": last}, _large(last)
    )


@_kind
def divisors(english: bool, split: Split, rng: random.Random) -> Program:
    number = pools.number(split, rng, 6, 500)
    code = f"n = {number}\nprint([d for d in range(1, n + 1) if n % d == 0])"
    found = [d for d in range(1, number + 1) if number % d == 0]
    return Program("divisors", code, str(found), {"number": number}, _large(number))


@_kind
def digits(english: bool, split: Split, rng: random.Random) -> Program:
    number = pools.number(split, rng, 100, 9999999)
    code = f"print(sum(int(d) for d in str({number})))"
    return Program("digits", code, str(sum(map(int, str(number)))), {"number": number}, _large(number))


@_kind
def binary(english: bool, split: Split, rng: random.Random) -> Program:
    number = pools.number(split, rng, 5, 2000)
    return Program("binary", _printed(f"bin({number})[2:]"), f"{number:b}", {"number": number}, _large(number))


# texts


def _english_text(split: Split, rng: random.Random) -> str:
    words = [rng.choice((pools.english_word, pools.english_name))(split, rng).lower() for _ in range(rng.randint(1, 3))]
    return " ".join(words)


def _of_text(kind: str, expression: str, of: Callable[[str], object]) -> Make:
    def make(english: bool, split: Split, rng: random.Random) -> Program:
        text = _english_text(split, rng)
        code = f'text = "{text}"\n{_printed(expression)}'
        return Program(kind, code, str(of(text)), {"text": text}, tuple(text.split(" ")[:0]))

    KINDS[kind] = make
    return make


_of_text("reverse", "text[::-1]", lambda text: text[::-1])
_of_text("length", "len(text)", len)
_of_text("upper", "text.upper()", str.upper)
_of_text("vowels", 'sum(text.count(v) for v in "aeiou")', lambda text: sum(text.count(vowel) for vowel in "aeiou"))
_of_text("words", "len(text.split())", lambda text: len(text.split()))
_of_text("palindrome", "text == text[::-1]", lambda text: text == text[::-1])


@_kind
def letter_count(english: bool, split: Split, rng: random.Random) -> Program:
    text = _english_text(split, rng)
    letter = rng.choice(text.replace(" ", ""))
    code = f'text = "{text}"\n{_printed(f"""text.count("{letter}")""")}'
    return Program("letter_count", code, str(text.count(letter)), {"text": text, "letter": letter})


# dates


def _date(rng: random.Random) -> datetime.date:
    return datetime.date(rng.randint(2015, 2035), rng.randint(1, 12), rng.randint(1, 28))


def _written(date: datetime.date) -> str:
    return f"date({date.year}, {date.month}, {date.day})"


@_kind
def days_between(english: bool, split: Split, rng: random.Random) -> Program:
    first = _date(rng)
    last = first + datetime.timedelta(days=rng.randint(2, 900))
    code = f"from datetime import date\nprint(({_written(last)} - {_written(first)}).days)"
    return Program("days_between", code, str((last - first).days), {"first": first, "last": last})


@_kind
def weekday(english: bool, split: Split, rng: random.Random) -> Program:
    day = _date(rng)
    code = f'from datetime import date\nprint({_written(day)}.strftime("%A"))'
    names = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    chinese = dict(zip(names, "一二三四五六日", strict=True))
    name = names[day.weekday()]
    return Program("weekday", code, name, {"day": day, "name": name if english else f"星期{chinese[name]}"})


@_kind
def date_after(english: bool, split: Split, rng: random.Random) -> Program:
    day, count = _date(rng), rng.randint(2, 400)
    code = f"from datetime import date, timedelta\nprint({_written(day)} + timedelta(days={count}))"
    return Program("date_after", code, str(day + datetime.timedelta(days=count)), {"day": day, "count": count})


# money and units


@_kind
def percent(english: bool, split: Split, rng: random.Random) -> Program:
    share, whole = rng.randint(1, 99), pools.number(split, rng, 20, 9999)
    output = str(round(whole * share / 100, 2))
    code = _printed(f"round({whole} * {share} / 100, 2)")
    return Program("percent", code, output, {"share": share, "whole": whole}, _large(whole))


@_kind
def discount(english: bool, split: Split, rng: random.Random) -> Program:
    price, off = pools.number(split, rng, 10, 2000), rng.randint(5, 60)
    output = str(round(price * (100 - off) / 100, 2))
    code = _printed(f"round({price} * (100 - {off}) / 100, 2)")
    return Program("discount", code, output, {"price": price, "off": off}, _large(price))


@_kind
def interest(english: bool, split: Split, rng: random.Random) -> Program:
    money, rate, years = pools.number(split, rng, 100, 90000), rng.randint(1, 9), rng.randint(2, 20)
    output = str(round(money * (1 + rate / 100) ** years, 2))
    code = _printed(f"round({money} * (1 + {rate} / 100) ** {years}, 2)")
    return Program("interest", code, output, {"money": money, "rate": rate, "years": years}, _large(money))


@_kind
def celsius(english: bool, split: Split, rng: random.Random) -> Program:
    degrees = rng.randint(-30, 220)
    output = str(round((degrees - 32) * 5 / 9, 1))
    return Program("celsius", _printed(f"round(({degrees} - 32) * 5 / 9, 1)"), output, {"degrees": degrees})


@_kind
def kilometers(english: bool, split: Split, rng: random.Random) -> Program:
    miles = pools.number(split, rng, 2, 3000)
    output = str(round(miles * 1.609344, 2))
    return Program("kilometers", _printed(f"round({miles} * 1.609344, 2)"), output, {"miles": miles}, _large(miles))


@_kind
def speed(english: bool, split: Split, rng: random.Random) -> Program:
    way, hours = pools.number(split, rng, 20, 2000), rng.randint(2, 24)
    output = str(round(way / hours, 2))
    return Program("speed", _printed(f"round({way} / {hours}, 2)"), output, {"way": way, "hours": hours}, _large(way))


@_kind
def circle(english: bool, split: Split, rng: random.Random) -> Program:
    radius = rng.randint(1, 99)
    code = f"import math\n{_printed(f'round(math.pi * {radius} ** 2, 2)')}"
    return Program("circle", code, str(round(math.pi * radius**2, 2)), {"radius": radius})


@_kind
def rectangle(english: bool, split: Split, rng: random.Random) -> Program:
    length, width = pools.number(split, rng, 2, 900), rng.randint(2, 99)
    return Program(
        "rectangle",
        _printed(f"{length} * {width}"),
        str(length * width),
        {"length": length, "width": width},
        _large(length),
    )


@_kind
def shopping(english: bool, split: Split, rng: random.Random) -> Program:
    """A word problem: so many of two things at two prices."""
    name = draw("name", english, split, rng).shown
    (first, price_one), (second, price_two) = ((rng.randint(2, 40), rng.randint(2, 60)) for _ in range(2))
    things = WORDING[f"goods {'en' if english else 'zh'}"]
    one, two = rng.sample(things, 2)
    slots = {
        "name": name, "first": first, "second": second, "one": one, "two": two,
        "price_one": price_one, "price_two": price_two,
    }  # fmt: skip
    output = str(first * price_one + second * price_two)
    code = _printed(f"{first} * {price_one} + {second} * {price_two}")
    return Program("shopping", code, output, slots, (name,))


@_kind
def sharing(english: bool, split: Split, rng: random.Random) -> Program:
    """A word problem: some are given away, the others are shared."""
    name = draw("name", english, split, rng).shown
    friends, each, given = rng.randint(2, 12), rng.randint(2, 30), rng.randint(2, 60)
    start = friends * each + given
    thing = rng.choice(WORDING[f"goods {'en' if english else 'zh'}"])
    slots = {"name": name, "start": start, "given": given, "friends": friends, "thing": thing}
    return Program("sharing", _printed(f"({start} - {given}) // {friends}"), str(each), slots, (name,))
