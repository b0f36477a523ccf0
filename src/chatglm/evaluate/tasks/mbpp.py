"""MBPP: short programs in Python, judged by running tests in the sandbox."""

from chatglm.evaluate.task import Protocol, Task

_PAPER = (
    "You are an expert Python programmer, and here is your task: {question} "
    "Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
)

TASK = Task(
    name="mbpp",
    title="MBPP",
    source="github.com/google-research/google-research, mbpp",
    licence="CC BY 4.0",
    shape="program",
    files=("test.jsonl", "mbpp.jsonl", "sanitized-mbpp.json"),
    shot_files=("prompt.jsonl", "rest.jsonl"),
    hub={"test.jsonl": ("google-research-datasets/mbpp", "full", "test")},
    needs="mbpp.jsonl of the repository",
    protocols={
        "paper": Protocol(
            kind="generate", template=_PAPER, answer="{worked}\n[DONE]", extractor="code", metric="tests",
            stop=("[DONE]",), max_tokens=512,
            note="the prompt of the paper without examples; pass@1, greedy; tests run in the sandbox, 30 s at most",
        ),
        "written": Protocol(
            kind="generate",
            template="{question}\nYour code should pass these tests:\n{tests}\n"
            "Write the Python function in a code block.\n",
            answer="```python\n{worked}\n```", extractor="code", metric="tests", max_tokens=512,
            note="for chat models: the program in a code block",
        ),
    },
)  # fmt: skip
