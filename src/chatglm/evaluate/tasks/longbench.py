"""LongBench: 21 sets of questions about long texts, in six categories, English and Chinese."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatglm.evaluate.files import read_text
from chatglm.evaluate.task import Protocol, Task

METRIC = {
    "narrativeqa": "token F1", "qasper": "token F1", "multifieldqa_en": "token F1",
    "multifieldqa_zh": "token F1, Chinese", "hotpotqa": "token F1", "2wikimqa": "token F1", "musique": "token F1",
    "dureader": "ROUGE-L, Chinese", "gov_report": "ROUGE-L", "qmsum": "ROUGE-L", "multi_news": "ROUGE-L",
    "vcsum": "ROUGE-L, Chinese", "trec": "classification", "triviaqa": "token F1", "samsum": "ROUGE-L",
    "lsht": "classification", "passage_count": "count", "passage_retrieval_en": "retrieval",
    "passage_retrieval_zh": "retrieval, Chinese", "lcc": "code similarity", "repobench-p": "code similarity",
}  # fmt: skip
CATEGORIES = {
    "summary": ("gov_report", "qmsum", "multi_news", "vcsum"),
    "single-document QA": ("narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh"),
    "multi-document QA": ("hotpotqa", "2wikimqa", "musique", "dureader"),
    "code": ("lcc", "repobench-p"),
    "few-shot": ("trec", "triviaqa", "samsum", "lsht"),
    "synthetic": ("passage_count", "passage_retrieval_en", "passage_retrieval_zh"),
}
RAW = ("trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p")  # examples and code go on as they are, without chat
FIRST_LINE = ("trec", "triviaqa", "samsum", "lsht")
_NEEDED = {"template": "dataset2prompt.json", "max_tokens": "dataset2maxlen.json"}


def prompts(folder: Path) -> Mapping[str, Any]:
    """The official templates and lengths, by set.

    Raises:
        ConfigError: one of the two files is missing or damaged.
    """
    return {name: _table(folder, file) for name, file in _NEEDED.items()}


def _table(folder: Path, name: str) -> Any:
    from chatglm.errors import ConfigError

    path = next((path for path in (folder / name, folder / "config" / name) if path.is_file()), None)
    if path is None:
        raise ConfigError(f"{folder} has no {name}; put config/{name} of github.com/THUDM/LongBench there")
    try:
        told = json.loads(read_text(path))
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from None
    kind = int if "maxlen" in name else str
    if not isinstance(told, dict) or not all(isinstance(value, kind) for value in told.values()):
        raise ConfigError(f"{path} must be an object with a {kind.__name__} for each set")
    return told


def of_its_set(protocol: Protocol, subject: str, facts: Mapping[str, Any]) -> Protocol:
    """The template, length, metric and stop of one set.

    Raises:
        ConfigError: a set that is not known.
    """
    from chatglm.errors import ConfigError

    if subject not in METRIC or any(subject not in table for table in facts.values()):
        raise ConfigError(f"LongBench has no set {subject!r}; it must be one of: {', '.join(METRIC)}")
    template = facts["template"][subject].replace("{context}", "{passage}").replace("{input}", "{question}")
    return replace(
        protocol,
        template=template,
        max_tokens=facts["max_tokens"][subject],
        metric=METRIC[subject],
        extractor="first line" if subject in FIRST_LINE else "whole",
        prompting="base" if subject in RAW else protocol.prompting,
    )


TASK = Task(
    name="longbench",
    title="LongBench",
    source="github.com/THUDM/LongBench",
    licence="the sets have licences of their own",
    shape="long",
    files=("data/*.jsonl", "*.jsonl"),
    leave="*_e.jsonl*",  # LongBench-E, other items of the same sets
    hub={"data/*.jsonl": ("Xnhyacinth/LongBench", None, "test")},
    needs="data/*.jsonl of data.zip, and config/dataset2prompt.json and config/dataset2maxlen.json of the repository",
    categories=CATEGORIES,
    facts=prompts,
    adjust=of_its_set,
    protocols={
        "official": Protocol(
            kind="generate",
            template="(of each set, from dataset2prompt.json)",
            extractor="whole",
            metric="(of each set)",
            prompting="chat",
            longest=31500,
            mean="categories",
            note="as LongBench/pred.py for chatglm3-6b-32k: the middle of longer prompts is left out; chat format but "
            "for trec, triviaqa, samsum, lsht, lcc, repobench-p; of four sets the first line counts; best of the "
            "answers; unweighted mean of each category, then of the six",
        ),
    },
)
