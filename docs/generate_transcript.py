"""Rewrite the answers in the READMEs' transcripts with what the embedded model says now: `make docs`.

The questions (lines that begin with "> ") stay as they are; the answers are greedy, so anyone gets the same.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import chatglm
from chatglm.cli import build_parser
from chatglm.terminal.app import Chat
from chatglm.terminal.opening import load_model
from chatglm.terminal.screen import Screen
from chatglm.terminal.workbench import Workbench

READMES = [Path(__file__).parents[1] / name for name in ("README.md", "README_zh.md")]
TRANSCRIPT = re.compile(r"(?<=^```text transcript\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)


def retell(transcript: str) -> str:
    """The same questions with today's answers."""
    written = io.StringIO()
    engine, tokenizer = load_model(build_parser().parse_args(["chat"]))
    session = chatglm.Session(engine, tokenizer, params=chatglm.SamplingParams(temperature=0))
    chat = Chat(session, Screen(written, color=False), Workbench())
    for question in re.findall(r"^> (.*)$", transcript, flags=re.MULTILINE):
        written.write(f"> {question}\n")
        chat.handle(question)
    return written.getvalue()


def main() -> None:
    """Rewrite both files; their transcripts are the same."""
    for path in READMES:
        text = path.read_text(encoding="utf-8")
        path.write_text(TRANSCRIPT.sub(lambda match: retell(match.group()), text), encoding="utf-8")


if __name__ == "__main__":
    main()
