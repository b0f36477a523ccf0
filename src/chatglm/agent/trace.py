"""The trace of a task: one JSON object per line, written as it happens, so that a crash loses nothing before it."""

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

from chatglm.agent.events import (
    ConsentAsked,
    FileProduced,
    ImageProduced,
    Notice,
    Observation,
    PlanMade,
    StepBegun,
    StepEnded,
    TaskDone,
    TaskEvent,
)
from chatglm.chat.message import INTERPRETER, CodeDone, TextDelta, ToolCallDone
from chatglm.errors import TraceError

FORMAT = "chatglm-trace"
VERSION = 2
READABLE = (1, 2)  # 1: notices hold a sentence, `text`; calls are numbered from 1 in each trace

Record = dict[str, Any]


class TraceWriter:
    """Turns the events of a task into records, and writes each to a file at once.

    Every record has `kind` and `time`, seconds since the beginning. Kinds: task, plan, step, thought, action, asked
    (whether a call is allowed), observation, image, file, notice, result (of a step), answer. What belongs to an action
    has its `id`.

    Args:
        path: the file; None: the records are only collected. An existing file must be a trace.

    Raises:
        TraceError: the file is something else, or cannot be written.
    """

    def __init__(self, path: str | PathLike[str] | None = None) -> None:
        self.records: list[Record] = []
        self._began = time.monotonic()
        self._text: list[str] = []
        self._file = None if path is None else _create(Path(path))

    def begin(self, task: str, tools: Sequence[str], code: bool) -> None:
        """The first record."""
        head = {"format": FORMAT, "version": VERSION, "task": task, "tools": list(tools), "code": code}
        self._write("task", started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **head)

    def add(self, event: TaskEvent) -> None:
        """The records an event comes to; text is collected until something else comes."""
        if isinstance(event, TextDelta):
            self._text.append(event.text)
            return
        record = self._record(event)
        if record is not None:
            self._flush()
            self._write(**record)

    def close(self) -> None:
        """Writes the text that is left, and closes the file."""
        self._flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _record(self, event: TaskEvent) -> Record | None:
        if isinstance(event, (ToolCallDone, CodeDone)):
            return {"kind": "action", "id": event.id} | _action(event)
        if isinstance(event, ConsentAsked):
            return {"kind": "asked", "id": event.id}
        if isinstance(event, Observation):
            told = {"name": event.name, "text": event.text, "ok": event.ok, "status": event.status}
            return {"kind": "observation", "id": event.id, **told, "seconds": round(event.seconds, 4)}
        if isinstance(event, ImageProduced):
            return {"kind": "image", "id": event.id, "mime": event.mime, "size": len(event.data)}
        if isinstance(event, FileProduced):
            return {"kind": "file", "id": event.id, "name": event.name, "size": event.size}
        if isinstance(event, Notice):
            return {"kind": "notice", "about": event.kind, "id": event.id, "count": event.count, "reason": event.reason}
        return self._task_record(event)

    def _task_record(self, event: TaskEvent) -> Record | None:
        if isinstance(event, PlanMade):
            return {"kind": "plan", "steps": list(event.steps), "revision": event.revision}
        if isinstance(event, StepBegun):
            return {"kind": "step", "number": event.number, "text": event.text}
        if isinstance(event, StepEnded):
            return {"kind": "result", "number": event.number, "ok": event.ok, "text": event.text}
        if isinstance(event, TaskDone):
            counts = {"reason": event.reason, "steps": event.steps, "revisions": event.revisions}
            return {"kind": "answer", "text": event.answer, **counts, "seconds": round(event.seconds, 4)}
        return None

    def _flush(self) -> None:
        text = "".join(self._text).strip()
        self._text = []
        if text:
            self._write("thought", text=text)

    def _write(self, kind: str, **values: Any) -> None:
        record = {"kind": kind, "time": round(time.monotonic() - self._began, 4), **values}
        self.records.append(record)
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            name, file, self._file = self._file.name, self._file, None
            with contextlib.suppress(OSError):  # what could not be written cannot be flushed either
                file.close()
            raise TraceError(f"the trace {name} cannot be written: {error.strerror or error}") from None


def read_trace(path: str | PathLike[str]) -> list[Record]:
    """The records of a trace.

    Raises:
        TraceError: the file cannot be read or is no trace; names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")  # splitlines() also splits inside texts
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    records = [_read_line(line, f"line {number} of {path}") for number, line in enumerate(lines, 1) if line.strip()]
    head = records[0] if records else {}
    if head.get("kind") != "task" or head.get("format") != FORMAT:
        raise TraceError(f'{path} is no trace; its first line must have "kind": "task" and "format": "{FORMAT}"')
    if head.get("version") not in READABLE:
        raise TraceError(f"{path} has trace version {head.get('version')!r}; this program reads versions 1 and 2")
    return records


# kind -> what a record of it must hold
_NEEDED: Mapping[str, Mapping[str, Any]] = {
    "task": {"task": str},
    "plan": {"steps": list},
    "step": {"number": int, "text": str},
    "thought": {"text": str},
    "action": {"id": int, "name": str},
    "asked": {"id": int},
    "observation": {"name": str, "text": str, "ok": bool, "status": str},
    "image": {"mime": str},
    "file": {"name": str},
    "notice": {},
    "result": {"number": int, "ok": bool, "text": str},
    "answer": {"text": str, "reason": str},
}


def _read_line(line: str, where: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise TraceError(f"{where} is not JSON; every line of a trace is one JSON object") from None
    kind = record.get("kind") if isinstance(record, dict) else None
    if not isinstance(kind, str) or kind not in _NEEDED:
        raise TraceError(f'{where} has the kind {kind!r}; "kind" must be one of: {", ".join(_NEEDED)}')
    for name, wanted in _NEEDED[kind].items():
        if not isinstance(record.get(name), wanted):
            raise TraceError(f"{where} has no valid {name!r}; in a record of kind {kind!r} it is a {wanted.__name__}")
    return dict(record)


def _action(event: ToolCallDone | CodeDone) -> Record:
    if isinstance(event, CodeDone):
        return {"name": INTERPRETER, "code": event.code}
    call = event.call
    error = {"raw": call.raw, "error": call.error} if call.error else {}
    return {"name": call.name, "arguments": call.arguments, **error}


def check_target(path: Path) -> None:
    """Refuses a file that no trace can or should be written to, and leaves it as it is.

    Raises:
        TraceError: it holds something else, or its folder is missing or not to be written in.
    """
    if path.is_file() and path.stat().st_size:
        try:
            read_trace(path)
        except TraceError as error:
            raise TraceError(f"{path} was not overwritten: {error}") from None
    if path.is_dir() or not path.parent.is_dir():
        what = "it is a folder" if path.is_dir() else f"there is no folder {str(path.parent)!r}"
        raise TraceError(f"{path} cannot be written: {what}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise TraceError(f"{path} cannot be written: the permission is missing")


def _create(path: Path) -> TextIO:
    check_target(path)
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise TraceError(f"{path} cannot be written: {error.strerror or error}") from None
