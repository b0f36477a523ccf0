"""Prints how good the embedded model is: exact answers by topic and split, whole conversations, plain questions."""

import argparse
import json
import math
from pathlib import Path

import torch

from chatglm.demo import WEIGHTS
from chatglm.demo.encoding import Encoder
from chatglm.demo.exact import JUDGE_SEED, Scores, judge, mean
from chatglm.demo.journeys import Judged, plain_answers
from chatglm.model.network import ChatGLMForConditionalGeneration


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m chatglm.demo.judge", description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="model folder (default: the one in the package)")
    parser.add_argument("--samples", type=int, default=100, help="questions a topic and split (default 100)")
    parser.add_argument("--seed", type=int, default=JUDGE_SEED, help="seed of the questions")
    parser.add_argument("--int4", action="store_true", help="quantize the weights to 4 bits first")
    parser.add_argument("--journeys", type=int, default=100, help="end-to-end conversations a set (default 100)")
    parser.add_argument("--questions", type=Path, help='plain questions to print answers of: lines {"question": ...}')
    options = parser.parse_args(arguments)
    if not options.int4:
        model = ChatGLMForConditionalGeneration.from_pretrained(options.weights, dtype=torch.float32)
        _print_scores(judge(model, Encoder(options.weights / "tokenizer.model"), options.samples, options.seed))
    with Judged(options.weights, "int4" if options.int4 else None) as judged:
        if options.journeys:
            for name, share in judged.table(options.journeys, options.seed).items():
                _print(f"{name:44}" + ("     -" if math.isnan(share) else f"{share:6.1%}"))
        if options.questions:
            lines = options.questions.read_text(encoding="utf-8").split("\n")
            for question, answer in plain_answers(judged, [json.loads(line)["question"] for line in lines if line]):
                _print(f"{question} -> {answer}")


def _print_scores(scores: Scores) -> None:
    for split, found in scores.items():
        lines = [f"{name:14}{score:6.1%}" for name, score in found.items()]
        _print("\n".join([f"{split:14}{mean(found):6.1%}", *lines, ""]))


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201  the result of a command


if __name__ == "__main__":
    main()
