"""AGIEval: examinations that people take, in English and Chinese. Some questions have no choices."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chatglm.evaluate.task import Protocol, Task

# The repository's prompts without examples, to the blank.
_CHINESE = "{passage}问题：{question} 选项：{options}\n答案：从{first}到{last}, 我们应选择"
_ENGLISH = "{passage}Q: {question} Answer Choices: {options}\nA: Among {first} through {last}, the answer is"
_CLOZE = Protocol(
    kind="generate", template="问题：{question}\n答案：", extractor="formula", metric="formula",
    max_tokens=512, stop=("\n问题：",), note="blanks to fill in",
)  # fmt: skip
_SEVERAL = ("gaokao-physics", "jec-qa-kd", "jec-qa-ca")  # of whose questions more than one choice may be right


def in_its_language(protocol: Protocol, subject: str, facts: Mapping[str, Any]) -> Protocol:
    """The words for examinations in Chinese and in English; all letters where several may be right."""
    chinese = subject.startswith(("gaokao", "jec-qa")) and subject != "gaokao-english" or subject == "logiqa-zh"
    if protocol.metric == "formula":
        english = replace(protocol, template="Q: {question}\nA: The answer is", stop=("\nQ:",))
        return protocol if chinese else english
    if chinese:
        protocol = replace(protocol, template=_CHINESE, answer="{letter}")
    if subject in _SEVERAL and protocol.kind == "generate":
        protocol = replace(protocol, extractor="letters", metric="letter set")
    return protocol


TASK = Task(
    name="agieval",
    title="AGIEval",
    source="github.com/ruixiangcui/AGIEval",
    licence="gaokao, sat, lsat: MIT; aqua-rat: Apache-2.0; logiqa: CC BY-NC-SA 4.0; jec-qa: academic use only; "
    "math: contested",
    shape="choice",
    files=("test.jsonl", "data/v1/*.jsonl", "v1/*.jsonl", "*.jsonl"),
    needs="the folder data/v1/ (*.jsonl) of the repository",
    adjust=in_its_language,
    protocols={
        "letters": Protocol(
            kind="letters",
            template=_ENGLISH,
            metric="letter", mean="subjects", without_choices=_CLOZE,
            note="0-shot with the repository's prompt, the likeliest letter; where several are right any of them "
            "counts; mean of the parts",
        ),
        "written": Protocol(
            kind="generate",
            template=_ENGLISH,
            extractor="letter", metric="letter", max_tokens=512, mean="subjects", without_choices=_CLOZE,
            note="0-shot with the repository's prompt, an answer is written and the letter found in it; where several "
            "are right all must be named",
        ),
    },
)  # fmt: skip
