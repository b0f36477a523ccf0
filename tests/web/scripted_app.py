"""The web app as users get it, but an engine that answers by a script. Run as a program: prints its address."""

import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from byte_text import SPECIALS
from injections import PAYLOADS
from scripted_engine import ByteTokenizer, ScriptedEngine, call, code, say

from chatglm.tools import named, tool

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
PLOT = """\
import matplotlib.pyplot as plt
plt.plot([1, 3, 2])
plt.show()
open('数据 1.csv', 'w').write('a,b')
print('drawn')"""
gate = threading.Event()


@tool(dangerous=True)
def remove(name: str) -> str:
    """Removes something."""
    return f"removed {name}"


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
    if question == "long":
        return say(LOREM * 1000)
    if question == "markdown":
        return say(MARKDOWN)
    if question.startswith("inject"):
        return say("\n\n".join(PAYLOADS))
    if results:
        return say(f"Done, {results} results.")
    calls = {
        "tool": call("calculator", expression="6 * 7"),
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
        slow = len(request.answer) > 5000
        for output in super().stream(request):
            yield output
            if slow:
                time.sleep(0.002)


def main(*options):
    from chatglm.web.answering import Local
    from chatglm.web.app import build_app
    from chatglm.web.run import serve
    from chatglm.web.users import Users

    pool = None
    if "--code" in options:
        from chatglm.sandbox import SandboxPool

        pool = SandboxPool(preload=("matplotlib.pyplot",))
    tools = [*named(["calculator"]), remove, wait]
    answers = Local(PacedEngine(), ByteTokenizer(), "scripted <b>model</b>", tools, pool)
    users = Users({"ann": "correct horse", "bob": "battery staple"}) if "--users" in options else None
    listener = socket.create_server(("127.0.0.1", 0))
    with tempfile.TemporaryDirectory() as folder:
        app = build_app(answers, Path(folder), hosts=("127.0.0.1", "localhost"), users=users)
        sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        serve(app, listener)
    answers.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
