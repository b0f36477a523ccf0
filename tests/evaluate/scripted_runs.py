"""A model of ten lines: its answers follow from the questions. As a program, a run that kills itself."""

import hashlib
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chatglm.evaluate.asking import Query, Reply
from chatglm.evaluate.command import write_reports
from chatglm.evaluate.folder import RunFolder
from chatglm.evaluate.report import report_of
from chatglm.evaluate.run import Plan, prepare, run, settings_of
from chatglm.evaluate.tasks import named
from chatglm.words import Words

DATA = Path(__file__).parent / "data"
TASKS = "gsm8k:strict,bbh,mmlu,ceval:two-pass,cmmlu:first-letter"  # graded without help from elsewhere


class Scripted:
    """Answers in an order that changes with how much is asked at once, as an engine does."""

    context: int | None = 4096
    about: Mapping[str, Any] = {"model": "scripted"}
    shortens = True

    def __init__(self) -> None:
        self.asked: list[Query] = []

    def count(self, text: str) -> int:
        return len(text) // 4

    def speed(self) -> dict[str, Any]:
        return {}

    def replies(self, waiting: "deque[Query]") -> Iterator[Reply]:
        while waiting:
            query = waiting.pop() if len(waiting) % 3 == 0 else waiting.popleft()
            self.asked.append(query)
            yield self.answer(query)

    def answer(self, query: Query) -> Reply:
        seed = hashlib.sha256(query.text.encode()).digest()
        if query.letters:
            return Reply(query.key, [1], logprobs=tuple(-float(seed[i]) for i in range(len(query.letters))))
        said = ("The answer is 19.\n#### 19", "(B)", "答案是A", "", "B")[seed[0] % 5]
        return Reply(query.key, [1, 2], said, finish="stop", new_tokens=len(said))


def evaluate(out: Path, tasks: str = TASKS, asked: Any = None, data: Path = DATA, **plan: Any) -> dict[str, Any]:
    """A whole run, reports and all; gives the report."""
    asked, chosen = asked or Scripted(), Plan(named(tasks), data, **plan)
    parts = prepare(chosen, asked)
    with RunFolder(out, settings_of(chosen, parts, asked)) as folder:
        run(parts, asked, folder)
        report = report_of(parts, asked.about)
        write_reports(folder, parts, report, Words())
    return report


class Fatal(RunFolder):
    """Kills the process once so many bytes of items are on the disk, in the middle of a line."""

    left = 0

    def add(self, name: str, value: Mapping[str, Any]) -> None:
        before = self._path(name).stat().st_size if self._path(name).exists() else 0
        super().add(name, value)
        size = self._path(name).stat().st_size - before
        Fatal.left -= size
        if Fatal.left < 0:
            os.truncate(self._path(name), before + max(0, size + Fatal.left))
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    Fatal.left = int(sys.argv[2])
    RunFolder = Fatal  # type: ignore[misc]
    evaluate(Path(sys.argv[1]))
