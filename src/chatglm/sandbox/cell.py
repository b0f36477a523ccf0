"""One cell while it runs: the host's loop over frames, streams, limits and time."""

import base64
import binascii
import re
import secrets
import select
import time
from dataclasses import dataclass, field
from typing import Any

from .config import SandboxConfig
from .frames import GuestLost, encode
from .guest_handle import Guest, drain
from .result import Kind
from .text import Transcript, clean, png_or_jpeg

_WATCH_SECONDS = 0.05
_MAX_NOTICES = 20
_MAX_STRAY_ENDS = 20  # of other cells; a guest that sends more does not read what it is asked
_MISSING_GLYPH = re.compile(r"Glyph \d+ .{0,80}missing from")
_OPAQUE = re.compile(r"<[\w.]+ object(?: at 0x[0-9a-f]+)?>")  # what says nothing, where another form says something
_NO_FONT = (
    "some characters could not be drawn: no font here has them; install a Chinese font on the host, for example "
    "fonts-noto-cjk or fonts-wqy-zenhei (Debian, Ubuntu)"
)


@dataclass
class Cell:
    """What one cell has sent so far."""

    guest: Guest
    config: SandboxConfig
    number: int
    transcript: Transcript = field(init=False)
    notices: list[str] = field(default_factory=list)
    interrupted: str | None = None  # "timeout", or "interrupted" by somebody else
    success: bool = False
    stop_requested: bool = False  # set by other threads
    settled: bool = False
    begun: bool = False  # code of the cell has run
    _ended: bool = False
    _pending: memoryview = field(default_factory=lambda: memoryview(b""))
    _traffic: int = 0
    _num_images: int = 0
    _num_stray_ends: int = 0
    _left_out_images: dict[str, int] = field(default_factory=dict)  # why, and how many for that reason
    _deadline: float = 0.0
    _token: str = field(default_factory=lambda: secrets.token_hex(8))
    _proofs: set[str] = field(default_factory=set)  # ways on which the token has come

    def __post_init__(self) -> None:
        self.transcript = Transcript(self.config.output_chars)

    def run(self, code: str, seconds: float) -> None:
        """Sends the code and collects until the guest says that it is done.

        Raises:
            GuestLost: the guest died, crossed a limit, or did not stop when told to.
        """
        self._deadline = time.monotonic() + seconds
        self._pending = memoryview(encode({"op": "run", "id": self.number, "code": code, "token": self._token}))
        self._collect()

    def settle(self) -> None:
        """After an exception of the host itself: stops the code, waits for its end, and lays the guest to rest.

        Raises:
            GuestLost: it did not stop.
        """
        self.interrupt("interrupted")
        self._collect()
        self.guest.freeze()
        self.settled = True

    def _collect(self) -> None:
        watch_at = 0.0
        while not self._ended:
            now = time.monotonic()
            if now >= watch_at:
                self.guest.check()
                watch_at = now + _WATCH_SECONDS
            if self.stop_requested:
                self.interrupt("interrupted")
            if now >= self._deadline:
                self._out_of_time()
            past_the_shell = self._wait()
            self._pending = self.guest.write(self._pending)
            self._take(self.guest.read())
            # Only what was there before the frames were read: the guest sends no frame while such text waits, so all
            # frames read now are older. What came since may be younger than a frame that is on its way.
            if past_the_shell:
                self._take_streams()
        self.finish()

    def interrupt(self, reason: str) -> None:
        """Asks the code to stop; it has the grace time to do so."""
        if self.interrupted is None:
            self.interrupted = reason
            self._deadline = time.monotonic() + self.config.grace_seconds
            self.guest.interrupt()

    def _out_of_time(self) -> None:
        if self.interrupted is not None:
            raise GuestLost(
                self.interrupted, f"it did not stop within {self.config.grace_seconds:g} s after it was interrupted"
            )
        self.interrupt("timeout")

    def _wait(self) -> bool:
        """Until something arrives, or it is time to look at the limits; whether text waits that went past the shell."""
        poll = select.poll()  # not select(): a service may have more than 1024 descriptors
        for descriptor in (self.guest.read_fd, self.guest.stdout_fd, self.guest.stderr_fd):
            poll.register(descriptor, select.POLLIN)
        if self._pending:
            poll.register(self.guest.write_fd, select.POLLIN | select.POLLOUT)
        ready = dict(poll.poll(_WATCH_SECONDS * 1000))
        return self.guest.stdout_fd in ready or self.guest.stderr_fd in ready

    def _take_streams(self) -> None:
        """Text that went past the shell: from child processes and from C."""
        streams: tuple[tuple[int, Kind], ...] = ((self.guest.stdout_fd, "stdout"), (self.guest.stderr_fd, "stderr"))
        for descriptor, kind in streams:
            data = drain(descriptor)
            if data:
                self._count(len(data))
                self.transcript.add(kind, data.decode("utf-8", "replace"))

    def _count(self, size: int) -> None:
        self._traffic += size
        if self._traffic > self.config.output_size:
            raise GuestLost("output", f"more than {self.config.output_size >> 20} MiB of output")

    def _take(self, frames: list[dict[str, Any]]) -> None:
        for frame in frames:
            kind = frame.get("t")
            self._count(64 + sum(len(value) for value in _texts(frame)))
            if kind == "stream":
                name: Kind = "stderr" if frame.get("name") == "stderr" else "stdout"
                self.transcript.add(name, self._without_token(name, _text(frame.get("text"))))
            elif kind in ("result", "error", "display") and self._is_proof(kind, frame.get("data")):
                continue
            elif kind in ("display", "result", "error"):
                self._take_bundle(kind, frame.get("data"))
            elif kind == "begun":
                self.begun = True
            elif kind == "done":
                self._take_end(frame)
            else:
                raise GuestLost("protocol", f"a message of unknown kind {str(kind)[:40]!r}")

    def _take_end(self, frame: dict[str, Any]) -> None:
        """The end of this cell. An earlier number is a forged message that came late: no cell's end, and harmless."""
        number = frame.get("id")
        self._num_stray_ends += number != self.number
        if not isinstance(number, int) or number > self.number or self._num_stray_ends > _MAX_STRAY_ENDS:
            raise GuestLost("protocol", "an answer to a question nobody asked")
        if number == self.number and not self._ended:
            self._ended, self.success = True, frame.get("ok") is True
            self._require_next(frame)
            repaired = frame.get("repaired")
            if isinstance(repaired, list) and repaired:
                names = clean(", ".join(str(name)[:40] for name in repaired[:5]))
                self.notices.append(f"the code had replaced parts of the interpreter, put back: {names}")

    def _require_next(self, end: dict[str, Any]) -> None:
        """Raises GuestLost where no further cell could run: something is used up, or the shell is broken."""
        limit = end.get("exhausted")
        if limit in _EXHAUSTED:
            raise GuestLost(limit, f"it has used up its {_EXHAUSTED[limit]}, and no further cell could run")
        if "broken" in end or self._proofs != _PROOFS:
            why = clean(str(end.get("broken") or "its output does not arrive"))[:200]
            raise GuestLost("broken", f"the code has broken the interpreter itself ({why})")

    def _without_token(self, way: str, text: str) -> str:
        """The text without the mark by which the guest shows that this way is whole."""
        if self._token in text:
            self._proofs.add(way)
        return text.replace(self._token, "")

    def _is_proof(self, way: str, data: Any) -> bool:
        found = isinstance(data, dict) and self._token in str(data.get("text/plain"))
        if found:
            self._proofs.add(way)
        return found

    def _take_bundle(self, kind: Kind, data: Any) -> None:
        """One value in several forms: a picture if there is one, and the most telling text."""
        if not isinstance(data, dict):
            raise GuestLost("protocol", "an output that is not an object")
        text = _text(data.get("text/plain", ""))
        if _OPAQUE.fullmatch(text):
            text = next((_text(data[mime]) for mime in _MARKUP if mime in data), text)
        image = None
        encoded = data.get("image/png", data.get("image/jpeg"))
        if encoded is not None:
            image = self._image(_text(encoded))
        elif "too_large" in data:
            self._left_out(f"it has more than {self.config.image_size} bytes")
        self.transcript.add(kind, text + ("\n" if kind == "display" else ""), image)

    def _image(self, encoded: str) -> Any:
        """The picture, or None and a notice why not."""
        config = self.config
        try:
            image = png_or_jpeg(base64.b64decode(encoded))
        except (binascii.Error, ValueError):
            image = None
        if image is None:
            problem = "it is no PNG or JPEG"
        elif len(image.data) > config.image_size:
            problem = f"it has {len(image.data)} bytes; at most {config.image_size} are allowed"
        elif image.width * image.height > config.image_pixels:
            problem = f"it has {image.width} x {image.height} pixels; at most {config.image_pixels} are allowed"
        elif self._num_images >= config.num_images:
            problem = f"at most {config.num_images} images per cell are kept"
        else:
            self._num_images += 1
            return image
        self._left_out(problem)
        return None

    def _left_out(self, problem: str) -> None:
        self._left_out_images[problem] = self._left_out_images.get(problem, 0) + 1

    def finish(self) -> None:
        """The last text, and what has to be said in words."""
        for problem, count in list(self._left_out_images.items())[:_MAX_NOTICES]:
            self.notices.append(("an image was" if count == 1 else f"{count} images were") + f" left out: {problem}")
        self._take_streams()
        if any(_MISSING_GLYPH.search(output.text) for output in self.transcript.outputs() if output.kind == "stderr"):
            self.notices.append(_NO_FONT)


_PROOFS = {"stdout", "stderr", "result", "error", "display"}
_EXHAUSTED = {"memory": "address space", "files": "descriptors", "processes": "processes and threads"}
_MARKUP = ("text/markdown", "text/html", "text/latex")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise GuestLost("protocol", f"a text that is a {type(value).__name__}")
    return value


def _texts(frame: dict[str, Any]) -> list[str]:
    data = frame.get("data")
    values = [frame.get("text"), *(data.values() if isinstance(data, dict) else ())]
    return [value for value in values if isinstance(value, str)]
