"""CMMLU: 67 subjects, four choices, in Chinese."""

from chatglm.evaluate.task import Protocol, Task

_HEADER = "以下是关于{subject}的单项选择题，请直接给出正确答案的选项。\n\n"
_QUESTION = "题目：{question}\n{choices}\n答案是："

TASK = Task(
    name="cmmlu",
    title="CMMLU",
    source="github.com/haonan-li/CMMLU",
    licence="CC BY-NC-SA 4.0",
    shape="choice",
    files=("test.jsonl", "test/*.csv", "data/test/*.csv"),
    shot_files=("dev.jsonl", "dev/*.csv", "data/dev/*.csv"),
    needs="the folders test/ and dev/ (*.csv) of data/ in the repository",
    protocols={
        "letters": Protocol(
            kind="letters", header=_HEADER, template=_QUESTION, answer="{letter}", metric="letter",
            note="the likeliest of the four letters",
        ),
        "letters-bare": Protocol(
            kind="letters", header=_HEADER, template=_QUESTION, answer="{letter}", blank=False, metric="letter",
            note="the same with letters that have no SentencePiece blank before them",
        ),
        "first-letter": Protocol(
            kind="generate", header=_HEADER, template=_QUESTION, answer="{letter}", extractor="first letter",
            metric="letter", max_tokens=64, stop=("\n\n",),
            note="as src/chatglm.py of CMMLU: the first letter of the reply; one that begins otherwise is wrong "
            "(there it is left out of the mean)",
        ),
        "written": Protocol(
            kind="generate", header=_HEADER, template=_QUESTION, answer="{letter}", extractor="letter",
            metric="letter", max_tokens=256, stop=("\n\n",),
            note="an answer is written, and the letter found in it",
        ),
    },
)  # fmt: skip
