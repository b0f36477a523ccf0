"""What came out of a cell."""

from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "error", "timeout", "killed", "refused"]
Kind = Literal["stdout", "stderr", "result", "display", "error"]


@dataclass(frozen=True, slots=True)
class Image:
    """A picture the code showed. `mime` is image/png or image/jpeg.

    Its signature and size were checked, the rest was not.
    """

    mime: str
    data: bytes = field(repr=False)
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A regular file under /mnt/data: its path below that folder, its size in bytes, when it changed (Unix seconds)."""

    name: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Output:
    """One piece of output, in the order the code made it."""

    kind: Kind
    text: str
    image: Image | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of a cell.

    `status` says how it ended:
    ok: it ran to its end. error: an exception, which is the last output of kind "error".
    timeout: it ran out of time and was interrupted; variables are kept.
    killed: the guest is gone and with it the variables; `reason` says why, and the next cell gets a fresh guest.
    refused: the code was never run; `reason` says why.

    All text is free of control characters, and cut where it was too long. It is still the guest's word: show it, never
    run it or follow it.
    """

    status: Status
    outputs: tuple[Output, ...] = ()
    files: tuple[FileInfo, ...] = ()  # new or changed since the cell before
    notices: tuple[str, ...] = ()  # what was left out or put right, in words
    reason: str | None = None  # "key: sentence", for timeout, killed, refused and an interrupted cell
    seconds: float = 0.0

    def _joined(self, kind: Kind) -> str:
        return "".join(output.text for output in self.outputs if output.kind == kind)

    @property
    def stdout(self) -> str:
        return self._joined("stdout")

    @property
    def stderr(self) -> str:
        return self._joined("stderr")

    @property
    def result(self) -> str | None:
        """The value of the last expression as text; None if there was none."""
        texts = [output.text for output in self.outputs if output.kind == "result"]
        return "\n".join(texts) if texts else None

    @property
    def error(self) -> str | None:
        """The traceback; None if there was none."""
        return self._joined("error") or None

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(output.image for output in self.outputs if output.image is not None)

    def text(self, limit: int = 8000) -> str:
        """What a model is shown: all outputs in order, then notices and files, at most about `limit` characters."""
        parts, pictures = [], 0
        for output in self.outputs:
            text = output.text.strip("\n")
            if output.image is not None:
                pictures += 1
                text += f"\n[image {pictures}: {output.image.width} x {output.image.height} pixels]"
            parts.append(text.strip("\n"))
        parts += [f"[{notice}]" for notice in self.notices]
        if self.reason:
            said = self.reason.startswith(self.status)
            parts.append(f"[{self.reason}]" if said else f"[{self.status}, {self.reason}]")
        if self.files:
            parts.append("[files: " + ", ".join(f"{file.name} ({file.size} bytes)" for file in self.files) + "]")
        return shorten("\n".join(part for part in parts if part) or "[no output]", limit)


def shorten(text: str, limit: int) -> str:
    """The text, or its beginning and its end with a marker between that says how much is missing."""
    if len(text) <= limit:
        return text
    head = (limit + 1) // 2
    tail = limit - head
    return f"{text[:head]}\n... [{len(text) - limit} characters left out] ...\n{text[len(text) - tail :]}"
