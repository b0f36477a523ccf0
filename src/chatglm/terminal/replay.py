"""`chatglm agent --replay`: the trace of a task shown again, its actions carried out anew where there are tools."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from chatglm.errors import UsageError
from chatglm.terminal.screen import Screen
from chatglm.terminal.start import tolerant
from chatglm.terminal.workbench import open_workbench
from chatglm.words import Words, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from chatglm.agent.actions import Ask
    from chatglm.agent.replay import Replayed

WITH_REPLAY = {"replay", "tools", "code", "upload", "output", "tier", "dangerously_run_unisolated", "yes", "lang"}
NO_OPTIONS = {"command", "handler", "traceback"}


def show_replay(options: argparse.Namespace, words: Words, ask: Callable[[Screen], Ask]) -> int:
    """Show a trace; exit status 1 where an action gives something else now."""
    from chatglm.agent.replay import replay
    from chatglm.agent.uploads import read_uploads

    given = {name for name, value in vars(options).items() if value is not None and value is not False}
    wrong = sorted(given - WITH_REPLAY - NO_OPTIONS)
    if wrong:
        name = "a TASK" if wrong[0] == "task" else "--" + wrong[0].replace("_", "-")
        raise UsageError(f"{name} has no meaning with --replay, which runs no model; leave it out")
    different = 0
    with open_workbench(options) as bench:
        screen = Screen(tolerant(sys.stdout), words, steer=sys.stdout.isatty(), color=False)
        steps = replay(
            options.replay,
            tools=bench.tools or None,
            sandbox=bench.sandbox,
            on_dangerous=ask(screen),
        )
        for name, content in read_uploads(options.upload or ()):
            bench.sandbox.put(name, content)
        for step in steps:
            screen.note(_told(step, words))
            different += step.same is False
    return 1 if different else 0


def _told(step: Replayed, words: Words) -> str:
    """A record in words, and whether its action gave the same now."""
    record = step.record
    head = f"{record.get('time', 0):8.2f}  {record['kind']}"
    lines = [f"{head}  {' '.join(_details(record))}".rstrip(), *_body(record)]
    if step.same is True:
        lines.append(words("replay_same"))
    elif step.same is False and step.observed is not None:
        lines.append(words("replay_different", text=step.observed.text))
    return printable("\n".join(lines))


def _details(record: dict[str, Any]) -> list[str]:
    names = ("number", "name", "status", "about", "mime", "size", "reason")
    return [str(record[name]) for name in names if name in record]


def _body(record: dict[str, Any]) -> list[str]:
    if record["kind"] == "action":
        return [record["code"] if "code" in record else json.dumps(record.get("arguments"), ensure_ascii=False)]
    if record["kind"] == "plan":
        return [f"{number}. {step}" for number, step in enumerate(record["steps"], 1)]
    return [text for text in (record.get("task"), record.get("text")) if text]
