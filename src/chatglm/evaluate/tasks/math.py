"""MATH: problems of competitions, in LaTeX."""

from chatglm.evaluate.task import Protocol, Task

TASK = Task(
    name="math",
    title="MATH",
    source="github.com/hendrycks/math",
    licence="MIT by the authors; contested by the owner of the problems, so never part of this package",
    shape="problem",
    files=("test.jsonl", "test/*.jsonl", "test/*/*.json", "MATH/test/*/*.json"),
    shot_files=("train.jsonl", "train/*/*.json", "MATH/train/*/*.json"),
    hub={"test/*.jsonl": ("EleutherAI/hendrycks_math", None, "test")},
    needs="test.jsonl with problem and solution (or answer), or the folders test/<subject>/*.json of MATH.tar",
    protocols={
        "cot": Protocol(
            kind="generate",
            template="Problem: {question}\nLet's think step by step, and put the final answer in \\boxed{}.\nSolution:",
            answer=" {worked}",
            extractor="formula",
            metric="formula",
            stop=("\nProblem:",),
            max_tokens=1024,
            note="0-shot chain of thought; what is boxed, compared by math-verify as mathematics, not as text",
        ),
        "plain": Protocol(
            kind="generate",
            template="Problem: {question}\nAnswer:",
            answer=" {worked}",
            extractor="between dollars",
            metric="formula",
            stop=("Problem:",),
            note="the prompt and extraction of lm-evaluation-harness hendrycks_math, compared as mathematics",
        ),
    },
)
