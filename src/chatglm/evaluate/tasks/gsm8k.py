"""GSM8K: word problems for school children, in English."""

from chatglm.evaluate.task import Protocol, Task

TASK = Task(
    name="gsm8k",
    title="GSM8K",
    source="github.com/openai/grade-school-math",
    licence="MIT",
    shape="problem",
    files=("test.jsonl",),
    shot_files=("train.jsonl",),
    hub={"test.jsonl": ("openai/gsm8k", "main", "test"), "train.jsonl": ("openai/gsm8k", "main", "train")},
    needs="test.jsonl of grade_school_math/data (and train.jsonl for examples)",
    protocols={
        "cot": Protocol(
            kind="generate",
            template='Question: {question}\nLet\'s think step by step, and end with "The answer is" and the number.\n'
            "Answer:",
            answer=" {worked} The answer is {gold}.",
            extractor="number",
            metric="number",
            stop=("\nQuestion:",),
            note='0-shot chain of thought; the number behind "the answer is", or else the last number',
        ),
        "strict": Protocol(
            kind="generate",
            template="Question: {question}\nAnswer:",
            answer=" {worked}\n#### {gold}",
            shots=5,
            extractor="marked number",
            metric="number",
            stop=("\nQuestion:",),
            note="5 examples of the training set in its own format; only the number behind #### counts",
        ),
    },
)
