"""BFCL, the parts of one turn: which functions a model calls, with which arguments, and when it calls none."""

from chatglm.evaluate.task import Protocol, Task

TASK = Task(
    name="bfcl",
    title="BFCL",
    source="github.com/ShishirPatil/gorilla, berkeley-function-call-leaderboard",
    licence="Apache-2.0",
    shape="calls",
    files=("*.jsonl", "BFCL_v*.json"),
    leave="*java*",  # and javascript: values are written in those languages
    answer_files=("possible_answer/BFCL_v*.json",),
    needs="BFCL_v4_simple_python.json, ..._multiple.json, ..._parallel.json, ..._irrelevance.json of bfcl_eval/data, "
    "and possible_answer/ with them",
    protocols={
        "calls": Protocol(
            kind="generate", template="{question}", extractor="calls", metric="calls", max_tokens=512, prompting="chat",
            mean="subjects",
            note="functions offered as tools in the chat format, types as JSON Schema, . in names as _; calls compared "
            "by BFCL's rules for syntax trees; no readable call is right where none fits; mean of the parts",
        ),
    },
)  # fmt: skip
