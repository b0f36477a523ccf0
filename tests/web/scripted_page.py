"""A model that answers by what it was asked, tools for it, and visitors who ask it."""

import time

from agent.scripted_engine import ByteTokenizer, ScriptedEngine, call, code, say
from byte_text import SPECIALS
from web.injections import PAYLOADS

from chatglm.tools import named, tool
from chatglm.web.answering import Local

LOREM = "The quick brown fox jumps over the lazy dog. 敏捷的棕色狐狸跳过懒狗。"
MARKDOWN = """\
# Heading

A list of `List<int>` and $a<b$:

- one
- two

| a | b |
|---|---|
| 1 | 2 |

```python
print("<b>not bold</b>")
```

$$\\int_0^1 x^2 dx = \\frac{1}{3}$$
"""
SINE = """\
import numpy as np
import matplotlib.pyplot as plt
x = np.linspace(0, 2 * np.pi, 200)
plt.figure(figsize=(6, 3))
plt.plot(x, np.sin(x))
plt.title("正弦曲线")
plt.show()
np.savetxt("sine.csv", np.c_[x, np.sin(x)], delimiter=",")"""
PROSE = f"## A section\n\n{'word ' * 60}\n\n{MARKDOWN}\n" * 5
PLOT = """\
import matplotlib.pyplot as plt
plt.plot([1, 3, 2])
plt.show()
open('数据 1.csv', 'w').write('a,b')
print('drawn')"""


@tool(dangerous=True)
def remove(name: str) -> str:
    """Removes something."""
    return f"removed {name}"


@tool
def read_page() -> str:
    """Reads a page that somebody else has written."""
    return "\n\n".join(PAYLOADS)


@tool
def wait() -> str:
    """Waits for long."""
    time.sleep(20)
    return "waited"


def answer(prompt_ids):
    """What the model writes: by the last message, and whether a result has come since."""
    question, results = last_question(prompt_ids)
    if question.startswith("count"):
        return say(" ".join(f"{question[6:]}{number}" for number in range(1, 41)))
    if question.startswith("tokens "):
        return say(f"begun at {time.time()}\n\n" + PROSE[:2000] * (int(question[7:]) * 4 // 2000))
    if question == "long":
        return say(LOREM * 1000)
    if question == "markdown":
        return say(MARKDOWN)
    if question.startswith("inject"):
        return say("\n\n".join(PAYLOADS))
    if results and question == "画出正弦曲线":
        return say("这是 $y=\\sin x$ 在 $[0, 2\\pi]$ 上的曲线，数据保存在 `sine.csv`。")
    if results and question.startswith("What is 12"):
        return say("12 * 7 is **84**. When the model was released no tool can tell me.")
    if results:
        return say(f"Done, {results} results.")
    calls = {
        "What is 12 * 7, and when was ChatGLM3 released?": call("calculator", expression="12 * 7"),
        "画出正弦曲线": code(SINE),
        "tool": call("calculator", expression="6 * 7"),
        "hostile tool": call("read_page"),
        "danger": call("remove", name="<b>everything</b>"),
        "wait": call("wait"),
        "by hand": call("get_weather", city="北京"),
        "plot": code(PLOT),
        "loop": code("while True: pass"),
        "files": code("import os; print(sorted(os.listdir('.')))"),
    }
    return calls.get(question.split("\n")[-1].strip(), say(f"You said: {question}"))


def last_question(prompt_ids):
    user, observation, assistant = (SPECIALS[f"<|{role}|>"] for role in ("user", "observation", "assistant"))
    start = len(prompt_ids) - 1 - prompt_ids[::-1].index(user)
    end = prompt_ids.index(assistant, start)
    text = bytes(number for number in prompt_ids[start + 1 : end] if number < 256).decode()
    return text.strip(), prompt_ids[start:].count(observation)


class PacedEngine(ScriptedEngine):
    """Never at a loss; long answers come at the pace of a model."""

    def submit(self, prompt_ids, params=None):
        self.script.append(answer)
        return super().submit(prompt_ids, params)

    def stream(self, request):
        slow = isinstance(request.answer, str) and len(request.answer) > 1900
        for number, output in enumerate(super().stream(request)):
            yield output
            if slow and number % 4 == 0:
                time.sleep(0.005)  # a token has four characters


def answers(pool=None, engine=None):
    tools = [*named(["calculator"]), remove, wait, read_page]
    return Local(engine or PacedEngine(), ByteTokenizer(), "scripted <b>model</b>", tools, pool)
