"""Rewrite the answers in the READMEs' transcripts with what the embedded model says now: `make docs`.

The questions (lines that begin with "> ") stay as they are; the answers are greedy, so anyone gets the same.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from chatglm.cli import build_parser
from chatglm.terminal.app import Chat
from chatglm.terminal.conversation import Conversation
from chatglm.terminal.language import ENGLISH
from chatglm.terminal.model_responder import load_responder
from chatglm.terminal.sampling import Sampling
from chatglm.terminal.screen import Screen

READMES = [Path(__file__).parents[1] / name for name in ("README.md", "README_zh.md")]
TRANSCRIPT = re.compile(r"(?<=^```text transcript\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)


def retell(transcript: str) -> str:
    """The same questions with today's answers."""
    written = io.StringIO()
    screen = Screen(written, color=False)
    responder = load_responder(build_parser().parse_args(["chat"]))
    chat = Chat(responder, Conversation(), screen, ENGLISH, sampling=Sampling(greedy=True))
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
