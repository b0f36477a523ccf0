"""What a chat or a task can act with: tools, the code interpreter and its files, and the question before a dangerous
tool. Everything is opened before a model is loaded."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatglm.errors import ChatGLMError

if TYPE_CHECKING:
    from chatglm.agent.actions import Ask
    from chatglm.agent.events import ImageProduced
    from chatglm.tools import Tool

EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg"}


class WorkbenchError(ChatGLMError, ValueError):
    """The options for tools and code contradict each other, or a file cannot be saved."""

    exit_status = 2


@dataclass
class Workbench:
    """The tools and the interpreter of one conversation, and the folder where what they make is saved.

    `uploaded` holds the names and sizes of files the model was not told about yet.
    """

    tools: Sequence[Tool]
    sandbox: Any
    folder: Path
    uploaded: list[tuple[str, int]] = field(default_factory=list)

    def upload(self, path: str) -> tuple[str, int]:
        """Put a file of this machine before the interpreter; its name there, and its size."""
        from chatglm.agent.uploads import read_uploads

        [(name, content)] = read_uploads([path])
        self.sandbox.put(name, content)
        self.uploaded = [item for item in self.uploaded if item[0] != name] + [(name, len(content))]
        return name, len(content)

    def announced(self, text: str) -> str:
        """The user's message with what was uploaded since the last one."""
        from chatglm.agent.uploads import uploaded_text

        return uploaded_text(self.uploaded, text)

    def fetch(self, name: str) -> Path:
        """Save one of the interpreter's files; where it is now."""
        content = self.sandbox.get(name)
        return self._save(Path(os.path.basename(name)), content)

    def save_figure(self, image: ImageProduced) -> Path:
        """Save a picture; where it is now."""
        return self._save(Path(f"figure.{EXTENSIONS.get(image.mime, 'bin')}"), image.data)

    def _save(self, name: Path, content: bytes) -> Path:
        """Under the first name that is free: nothing is overwritten."""
        for number in range(1, 10_000):
            path = self.folder / (name.name if number == 1 else f"{name.stem}-{number}{name.suffix}")
            try:
                with path.open("xb") as file:
                    file.write(content)
                return path
            except FileExistsError:
                continue
            except OSError as error:
                raise WorkbenchError(f"{path} cannot be written: {error.strerror or error}") from None
        raise WorkbenchError(f"{self.folder} has thousands of files like {name}; name another folder with --output")


@contextmanager
def open_workbench(options: argparse.Namespace) -> Iterator[Workbench | None]:
    """What the options ask for; None where they ask for neither tools nor code.

    Raises:
        ChatGLMError: a tool file that cannot be loaded, a system that cannot isolate code, contradictory options.
    """
    _check(options)
    if not (options.tools or options.code):
        yield None
        return
    with ExitStack() as stack:
        sandbox = stack.enter_context(_open_sandbox(options)) if options.code else None
        tools = _tools(options.tools, sandbox) if options.tools else []
        bench = Workbench(tools, sandbox, Path(options.output or "."))
        for path in options.upload or ():
            bench.upload(path)
        yield bench


def may_use(options: argparse.Namespace, ask: Ask) -> Ask:
    """Who decides about dangerous tools: `--yes`, or the person at the terminal."""
    return (lambda call: True) if getattr(options, "yes", False) else ask


def _check(options: argparse.Namespace) -> None:
    if options.code:
        if options.output and not Path(options.output).is_dir():
            raise WorkbenchError(f"--output is {options.output!r}; it must be a folder that exists")
        return
    wrong = {"--upload": options.upload, "--tier": options.tier, "--output": options.output}
    wrong["--dangerously-run-unisolated"] = options.dangerously_run_unisolated
    name = next((name for name, value in wrong.items() if value), None)
    if name:
        raise WorkbenchError(f"{name} has no meaning without the code interpreter; add --code")


def _open_sandbox(options: argparse.Namespace) -> Any:
    from chatglm.sandbox import open_sandbox

    unisolated = options.dangerously_run_unisolated
    if unisolated:
        sys.stderr.write("chatglm: warning: code of the model runs isolated from nothing, with all your rights\n")
    tier = options.tier or ("none" if unisolated else "auto")
    return open_sandbox(tier, dangerously_run_unisolated=unisolated)


def _tools(names: Sequence[str], sandbox: Any) -> list[Tool]:
    from chatglm.tools import named

    return named(names, sandbox=sandbox)
