"""What a chat or a task can act with: tools, the code interpreter, and the folder where what they make is saved.
Everything is opened before a model is loaded."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatglm.errors import UsageError
from chatglm.words import Words

if TYPE_CHECKING:
    from chatglm.agent.events import ImageProduced
    from chatglm.tools import Tool

EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg"}


@dataclass
class Workbench:
    """The tools and the interpreter of one conversation, and a folder."""

    tools: Sequence[Tool] = ()
    sandbox: Any = None
    folder: Path = Path(".")
    _opened: ExitStack = field(default_factory=ExitStack, repr=False)  # what ends with it

    def open_code(self) -> None:
        """Opens an interpreter in the midst of a conversation.

        Raises:
            ChatGLMError: code cannot be isolated here.
        """
        from chatglm.sandbox import open_sandbox

        self.sandbox = self._opened.enter_context(open_sandbox("auto"))
        self.sandbox.warm_up()

    def close_code(self) -> None:
        """Ends the interpreter."""
        self.sandbox.close()
        self.sandbox = None

    def fetch(self, name: str) -> Path:
        """Save one of the interpreter's files; where it is now."""
        content = self.sandbox.get(name)
        return self._save(Path(os.path.basename(name)), content)

    def saved_figure(self, image: ImageProduced, words: Words) -> str:
        """Save a picture; a sentence that says where it is, or why it is nowhere."""
        try:
            return words("figure", path=self._save(Path(f"figure.{EXTENSIONS.get(image.mime, 'bin')}"), image.data))
        except UsageError as error:
            return words("no_figure", error=error)

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
                raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None
        raise UsageError(f"{self.folder} has thousands of files like {name}; name another folder with --output")


@contextmanager
def open_workbench(options: argparse.Namespace) -> Iterator[Workbench]:
    """What the options ask for.

    Raises:
        ChatGLMError: a tool file that cannot be loaded, a system that cannot isolate code, contradictory options.
    """
    _check(options)
    with ExitStack() as stack:
        sandbox = stack.enter_context(_open_sandbox(options)) if options.code else None
        tools = _tools(options.tools, sandbox) if options.tools else []
        if sandbox is not None:
            sandbox.warm_up()  # while the model is loaded and the first answer is written
        yield Workbench(tools, sandbox, Path(options.output or "."), stack)


def _check(options: argparse.Namespace) -> None:
    if options.code:
        if options.output and not Path(options.output).is_dir():
            raise UsageError(f"--output is {options.output!r}; it must be a folder that exists")
        from chatglm.agent.uploads import read_uploads

        read_uploads(options.upload or ())  # what cannot be read is told before a model is loaded
        return
    wrong = {"--upload": options.upload, "--tier": options.tier, "--output": options.output}
    wrong["--dangerously-run-unisolated"] = options.dangerously_run_unisolated
    name = next((name for name, value in wrong.items() if value), None)
    if name:
        raise UsageError(f"{name} has no meaning without the code interpreter; add --code")


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
