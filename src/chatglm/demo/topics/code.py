"""Programs written and run: tasks, uploaded tables, plots, and mistakes that a second cell puts right."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from chatglm.agent.prompts import code_result
from chatglm.chat.message import INTERPRETER
from chatglm.demo import pools, tables
from chatglm.demo.mistakes import mistake
from chatglm.demo.programs import WORDING, Program, make_program
from chatglm.demo.text import Split, Step, Turn, expand, fill, habits, phrasings

_KINDS = {"task": 62, "table": 14, "plot": 12, "mistake": 12}
_SIZES = ((640, 480), (547, 413), (556, 413), (543, 413), (567, 435), (562, 432), (389, 389), (547, 435))


@dataclass
class Cells:
    """How many cells a conversation has run; errors name their cell."""

    count: int = 0

    def next(self) -> int:
        self.count += 1
        return self.count


def dialogue(cells: Cells, split: Split, rng: random.Random) -> list[Turn]:
    """One thing that is done with code."""
    kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
    english = rng.random() < 0.5
    make: Callable[[Cells, bool, Split, random.Random], Turn] = {
        "task": task, "table": table, "plot": plot, "mistake": corrected,
    }[kind]  # fmt: skip
    return [make(cells, english, split, rng)]


def task(cells: Cells, english: bool, split: Split, rng: random.Random) -> Turn:
    """A program and its result."""
    program = make_program(english, split, rng)
    cells.next()
    return _turn(program, (cell(program.code, program.output),), english, split, rng)


def corrected(cells: Cells, english: bool, split: Split, rng: random.Random) -> Turn:
    """A cell with a mistake, which is not learned, and the right one after its error."""
    program = make_program(english, split, rng)
    wrong, error = mistake(program.code, cells.next(), rng)
    cells.next()
    failed = Step(INTERPRETER, fenced(wrong), code_result(error), learned=False)
    return _turn(program, (failed, cell(program.code, program.output)), english, split, rng)


def table(cells: Cells, english: bool, split: Split, rng: random.Random) -> Turn:
    """A question about an uploaded table."""
    found = tables.make_table(english, split, rng)
    steps = []
    for code, output, error in found.cells:
        number = cells.next()
        text = tables.key_error(code, number, output) if error else output
        steps.append(Step(INTERPRETER, fenced(code), code_result(text), learned=not error))
    asked = _say(found.kind, english, split, rng, found.slots)
    answers = _answers(found.kind, english, {**found.slots, "output": output})
    output = found.cells[-1][1]
    return Turn(asked, answers[0], answers, "", tuple(steps), (output,), found.drawn, ((found.name, found.content),))


def plot(cells: Cells, english: bool, split: Split, rng: random.Random) -> Turn:
    """A picture."""
    cells.next()
    kind = rng.choice(tuple(PLOTS))
    code, slots, drawn = PLOTS[kind](english, split, rng)
    width, height = rng.choice(_SIZES)
    shown = f"<Figure size 640x480 with 1 Axes>\n[image 1: {width} x {height} pixels]"
    answers = _answers("plot", english, slots)
    asked = _say(kind, english, split, rng, slots)
    return Turn(asked, answers[0], answers, "", (cell(code, shown),), (), drawn)


def cell(code: str, output: str) -> Step:
    """Code and what it printed."""
    return Step(INTERPRETER, fenced(code), code_result(output))


def fenced(code: str) -> str:
    """Code as the model writes it."""
    return f"```python\n{code}\n```"


def _turn(program: Program, steps: tuple[Step, ...], english: bool, split: Split, rng: random.Random) -> Turn:
    slots = {**program.slots, "output": program.output}
    answers = _answers(program.answers or program.kind, english, slots)
    asked = _say(program.kind, english, split, rng, slots)
    values = (program.output,) if program.output in answers[0] else ()
    return Turn(asked, answers[0], answers, "", steps, values, program.drawn)


def _say(kind: str, english: bool, split: Split, rng: random.Random, slots: "dict[str, object] | object") -> str:
    asks = WORDING[f"{kind} {'en' if english else 'zh'}"]
    template = habits(expand(rng.choice(phrasings(asks, split)), rng), rng)
    return fill(template, slots)  # type: ignore[arg-type]


def _answers(kind: str, english: bool, slots: dict[str, object]) -> tuple[str, ...]:
    language = "en" if english else "zh"
    lines = WORDING.get(f"{kind} answer {language}", WORDING[f"answer {language}"])
    return tuple(fill(line, slots) for line in lines)


# plots

_Plot = tuple[str, dict[str, object], tuple[str, ...]]


def _drawn(lines: str) -> str:
    return f"import matplotlib.pyplot as plt\n{lines}\nplt.show()"


def _curve(english: bool, split: Split, rng: random.Random) -> _Plot:
    last = rng.randint(2, 20)
    code, slots, drawn = _function(rng.choice(("sin", "cos", "exp", "sqrt")), last, english)
    return code, {**slots, "last": last}, drawn


def _simple_curve(english: bool, split: Split, rng: random.Random) -> _Plot:
    return _function(rng.choice(("sin", "cos")), 10, english)


def _function(name: str, last: int, english: bool) -> _Plot:
    lines = f"x = np.linspace(0, {last}, 200)\nplt.plot(x, np.{name}(x))"
    return f"import numpy as np\n{_drawn(lines)}", {"curve": _CURVES[name][0 if english else 1]}, ()


_CURVES = {
    "sin": ("sine", "正弦"),
    "cos": ("cosine", "余弦"),
    "exp": ("exponential", "指数"),
    "sqrt": ("square root", "平方根"),
}


def _labels(split: Split, rng: random.Random, count: int) -> list[str]:
    """Names without Chinese characters, which not every machine has a font for."""
    return [pools.english_word(split, rng) for _ in range(count)]


def _bars(english: bool, split: Split, rng: random.Random) -> _Plot:
    return _of_pairs("plt.bar(names, values)", english, split, rng)


def _pie(english: bool, split: Split, rng: random.Random) -> _Plot:
    return _of_pairs("plt.pie(values, labels=names)", english, split, rng)


def _of_pairs(call: str, english: bool, split: Split, rng: random.Random) -> _Plot:
    count = rng.randint(2, 5)
    names, values = _labels(split, rng, count), [rng.randint(1, 99) for _ in range(count)]
    written = "[" + ", ".join(f'"{name}"' for name in names) + "]"
    pairs = (", " if english else "，").join(f"{name} {value}" for name, value in zip(names, values, strict=True))
    code = _drawn(f"names = {written}\nvalues = {values}\n{call}")
    return code, {"pairs": pairs}, tuple(names)


def _line(english: bool, split: Split, rng: random.Random) -> _Plot:
    values = [pools.number(split, rng, 1, 500) for _ in range(rng.randint(3, 7))]
    numbers = (", " if english else "、").join(map(str, values))
    return _drawn(f"plt.plot({values})"), {"numbers": numbers}, tuple(str(value) for value in values if value > 99)


PLOTS: dict[str, Callable[[bool, Split, random.Random], _Plot]] = {
    "simple_curve": _simple_curve, "curve": _curve, "bars": _bars, "pie": _pie, "line": _line,
}  # fmt: skip
