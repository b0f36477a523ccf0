"""MMLU: 57 subjects, four choices, in English."""

from chatglm.evaluate.task import Protocol, Task

_HEADER = "The following are multiple choice questions (with answers) about {subject}.\n\n"
_QUESTION = "{question}\n{choices}\nAnswer:"

TASK = Task(
    name="mmlu",
    title="MMLU",
    source="github.com/hendrycks/test",
    licence="MIT",
    shape="choice",
    files=("test.jsonl", "test/*.csv", "*_test.csv"),
    shot_files=("dev.jsonl", "dev/*.csv", "*_dev.csv"),
    hub={"test.jsonl": ("cais/mmlu", "all", "test"), "dev.jsonl": ("cais/mmlu", "all", "dev")},
    needs="the folders test/ and dev/ (*.csv) of the archive",
    protocols={
        "letters": Protocol(
            kind="letters", header=_HEADER, template=_QUESTION, metric="letter",
            note="the prompt of hendrycks/test; the likeliest of the four letters; every question counts the same",
        ),
        "letters-bare": Protocol(
            kind="letters", header=_HEADER, template=_QUESTION, answer="{letter}", blank=False, metric="letter",
            note="the same with letters that have no SentencePiece blank before them",
        ),
        "written": Protocol(
            kind="generate", header=_HEADER, template=_QUESTION, extractor="letter", metric="letter",
            stop=("\n\n",), max_tokens=256,
            note="an answer is written, and the letter found in it",
        ),
    },
)  # fmt: skip
