"""C-Eval: 52 subjects, four choices, in Chinese. The labels of its test part are withheld."""

from chatglm.evaluate.task import Protocol, Task

_HEADER = "以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n\n"
_QUESTION = "{question}\n{choices}\n答案："

TASK = Task(
    name="ceval",
    title="C-Eval",
    source="github.com/hkust-nlp/ceval",
    licence="CC BY-NC-SA 4.0",
    shape="choice",
    files=("val.jsonl", "val/*.jsonl", "val/*.csv", "test.jsonl", "test/*.csv"),
    shot_files=("dev.jsonl", "dev/*.jsonl", "dev/*.csv"),
    hub={"val/*.jsonl": ("ceval/ceval-exam", None, "val"), "dev/*.jsonl": ("ceval/ceval-exam", None, "dev")},
    needs="the folders val/ and dev/ (*.csv) of ceval-exam.zip; only test/ gives a submission file instead of a score",
    protocols={
        "one-pass": Protocol(
            kind="letters", header=_HEADER, template=_QUESTION, answer="{letter}", metric="letter",
            note="the likeliest of the four letters behind 答案：, with the SentencePiece blank",
        ),
        "one-pass-bare": Protocol(
            kind="letters", header=_HEADER, template=_QUESTION, answer="{letter}", blank=False, metric="letter",
            note="the same with letters that have no SentencePiece blank before them",
        ),
        "two-pass": Protocol(
            kind="two-pass",
            template="[Round 1]\n\n问：{question}\n{choices}\n\n答：",
            second="[Round 1]\n\n问：{question}\n{choices}{written}\n综上所述，ABCD中正确的选项是：\n\n答：",
            metric="letter", max_tokens=512, longest=2048,
            note="as evaluate_ceval.py of ChatGLM2-6B: an answer is written, then the likeliest letter behind it",
        ),
        "written": Protocol(
            kind="generate", header=_HEADER, template=_QUESTION, answer="{letter}", extractor="letter",
            metric="letter", max_tokens=512, stop=("\n\n",),
            note="an answer is written, and the letter found in it",
        ),
    },
)  # fmt: skip
