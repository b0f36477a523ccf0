"""The scores that ChatGLM3's README reports. How they were made was not published, so they are no target.

Except those of LongBench, whose program is public.
"""

from collections.abc import Mapping

SOURCE = "README of ChatGLM3, 2023-10-27; reported, protocol unpublished"
LONGBENCH_SOURCE = "README of ChatGLM3, 2023-10-27; by the program of LongBench"

BASE: Mapping[str, Mapping[str, float]] = {
    "ChatGLM2-6B-Base": {"gsm8k": 32.4, "math": 6.5, "bbh": 33.7, "mmlu": 47.9, "ceval": 51.7, "cmmlu": 50.0},
    "best baseline below 10B": {
        "gsm8k": 52.1, "math": 13.1, "bbh": 45.0, "mmlu": 60.1, "ceval": 63.5, "cmmlu": 62.2, "mbpp": 47.5,
        "agieval": 45.8,
    },
    "ChatGLM3-6B-Base": {
        "gsm8k": 72.3, "math": 25.7, "bbh": 66.1, "mmlu": 61.4, "ceval": 69.0, "cmmlu": 67.5, "mbpp": 52.4,
        "agieval": 53.7,
    },
}  # fmt: skip
LONGBENCH: Mapping[str, Mapping[str, float]] = {
    "ChatGLM2-6B-32K": {
        "mean": 41.5, "summary": 24.8, "single-document QA": 37.6, "multi-document QA": 34.7, "code": 52.8,
        "few-shot": 51.3, "synthetic": 47.7,
    },
    "ChatGLM3-6B-32K": {
        "mean": 50.2, "summary": 26.6, "single-document QA": 45.8, "multi-document QA": 46.1, "code": 56.2,
        "few-shot": 61.2, "synthetic": 65.0,
    },
}  # fmt: skip


def published(task: str) -> dict[str, float]:
    """Model -> reported score of a task, in percent."""
    if task == "longbench":
        return {model: scores["mean"] for model, scores in LONGBENCH.items()}
    return {model: scores[task] for model, scores in BASE.items() if task in scores}
