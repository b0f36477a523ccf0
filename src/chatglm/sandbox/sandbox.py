"""One conversation's interpreter."""

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from subprocess import TimeoutExpired
from typing import Any
from weakref import WeakSet

from chatglm.errors import MissingExtraError, SandboxError

from . import idle
from .cell import Cell
from .config import LIBRARIES, WORK, SandboxConfig, seconds
from .frames import GuestLost
from .guest_handle import Guest
from .kept import KeptFiles
from .names import check_name
from .notebook import History, notebook
from .result import FileInfo, Result

Infos = list[FileInfo]
_open: "WeakSet[Sandbox]" = WeakSet()


class Sandbox:
    """A stateful Python interpreter that cannot reach anything outside. Made by `open_sandbox`.

    Variables stay from cell to cell. When a guest has to be killed, the next cell gets a fresh one with the files of
    the last, up to `SandboxConfig.kept_size`. Methods may be called from any thread; they wait for a running cell,
    except `interrupt` and `close`.
    """

    def __init__(self, tier: str, config: SandboxConfig, start: Callable[[], Guest]) -> None:
        self.tier, self.config = tier, config
        self._start = start
        self._lock = threading.RLock()
        self._owner = os.getpid()
        self._closed = False
        self._cell: Cell | None = None
        self._warming: Guest | None = None  # a guest that may take the place of the first, while nothing has run
        self._number = 0
        self._kept = KeptFiles(config.kept_size)
        self._history = History(config.notebook_size)
        self._lost: str | None = None  # what the next result must say about variables that are gone
        self._guest: Guest | None = self._begin()
        self.used_at = time.monotonic()
        _open.add(self)
        idle.watch(self)

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "used_at"):  # it was opened to the end
            self.close()

    def run(self, code: str, timeout: float | None = None) -> Result:
        """Runs one cell to its end, to its time limit (default `wall_seconds`) or to the guest's death.

        Never raises for anything the code does.

        Raises:
            SandboxError: the sandbox is closed, the timeout is no number of seconds, or no guest starts any more.
        """
        limit = self.config.wall_seconds if timeout is None else timeout
        if not seconds(limit):
            raise SandboxError(f"timeout is {timeout!r}; it must be a positive number of seconds")
        with self._lock:
            self._check_open()
            refusal = self._refusal(code)
            result = self._run(code, limit) if refusal is None else Result("refused", reason=f"refused: {refusal}")
            if refusal is None:
                self._history.add(code, result)
            return result

    def warm_up(self, modules: Iterable[str] = LIBRARIES) -> threading.Thread:
        """Makes a guest with these modules imported, in the background, and takes it if no cell has come until then.

        What is not installed is left out. Returns the thread that does it.
        """
        thread = threading.Thread(target=self._warm_up, args=(tuple(modules),), name="sandbox-warm-up", daemon=True)
        thread.start()
        return thread

    def _warm_up(self, modules: tuple[str, ...]) -> None:
        with suppress(SandboxError, MissingExtraError, GuestLost, OSError):  # then the guest that is there serves
            guest = self._warming = self._start()
            try:
                for module in modules:
                    if not (self._number or self._closed):
                        with suppress(SandboxError, MissingExtraError):
                            guest.load([module])
                with self._lock:
                    self._warming = None  # from here on no cell may end it
                    if self._guest is not None and not (self._number or self._closed) and self._kept.whole:
                        self._prepare(guest)
                        guest, self._guest = self._guest, guest
            finally:
                self._warming = None
                guest.close()

    def put(self, name: str, data: bytes, *, folders: bool = False) -> None:
        """Places a file under /mnt/data; with `folders` the name may lead through folders there, as in `list()`.

        Raises:
            SandboxError: the name is no plain file name, the file is too large, or there is no room for it.
        """
        plain = check_name(name, folders)
        if not isinstance(data, bytes | bytearray | memoryview):
            raise SandboxError(f"the content of file {name!r} is a {type(data).__name__}; it must be bytes")
        with self._lock:
            guest = self._ready()
            self._on_files(f"file {plain!r} cannot be written", lambda: guest.files.put(plain, bytes(data)))
            self._on_files("files cannot be listed", lambda: self._kept.look(guest.files))

    def get(self, name: str) -> bytes:
        """The content of a file under /mnt/data; "plots/a.png" names one in a folder there.

        Raises:
            SandboxError: the name leaves the folder, it is no regular file, or it is too large.
        """
        plain = check_name(name, folders=True)
        with self._lock:
            guest = self._ready()
            data: bytes = self._on_files(f"file {plain!r} cannot be read", lambda: guest.files.get(plain))
            return data

    def list(self) -> Infos:
        """The regular files under /mnt/data, at most 1000, sorted by name."""
        with self._lock:
            guest = self._ready()
            found: tuple[Infos, int] = self._on_files("files cannot be listed", guest.files.list)
            return found[0]

    def interrupt(self) -> None:
        """Stops the running cell, if there is one, as Ctrl-C would. For another thread than the one in `run`."""
        cell = self._cell
        if cell is not None:
            cell.stop_requested = True

    def restart(self) -> None:
        """Ends the guest; the next cell gets a fresh one without variables. Files are put back."""
        with self._lock:
            self._check_open()
            self._drop()

    def close(self) -> None:
        """Ends the guest and everything it started. May be called twice, and while a cell runs."""
        self._closed = True
        if self._owner != os.getpid():
            return  # a forked copy of the service: the guest belongs to the original
        for guest in (self._warming, self._guest if self._cell is not None else None):
            if guest is not None:
                guest.kill()
        with self._lock:
            self._drop()
        _open.discard(self)

    def begin_use(self, config: SandboxConfig) -> None:
        """From now on somebody uses it, within these limits: it was waiting in a pool."""
        self.config, self.used_at = config, time.monotonic()

    def end_idle(self, before: float) -> None:
        """Ends the guest if nothing used it since `before` (monotonic seconds)."""
        if not self._lock.acquire(blocking=False):
            return  # in use
        try:
            if self._guest is not None and self.used_at < before:
                self._drop()
                self._forgot("the interpreter had ended because it was idle")
        finally:
            self._lock.release()

    def export_notebook(self) -> dict[str, Any]:
        """What was run and what came out, as a Jupyter notebook (format 4.5): write it with `json.dump`."""
        with self._lock:
            return notebook(self._history)

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxError("the sandbox is closed; open a new one")
        if self._owner != os.getpid():
            raise SandboxError("the sandbox belongs to the process that opened it; open one in this process")
        self.used_at = time.monotonic()

    def _refusal(self, code: object) -> str | None:
        if not isinstance(code, str):
            return f"the code is a {type(code).__name__}; it must be a text"
        if len(code) > self.config.code_chars:
            return f"the code has {len(code)} characters; at most {self.config.code_chars} are allowed"
        return None

    def _ready(self) -> Guest:
        """The guest, started again if there is none."""
        self._check_open()
        if self._guest is not None and self._guest.process.poll() is not None:
            self._drop()  # it died while nobody looked (the machine's memory, an administrator)
            self._forgot("the interpreter had died")
        if self._guest is None:
            self._guest = self._begin()
        return self._guest

    def _begin(self) -> Guest:
        """A guest with the files of the one before, at rest."""
        guest = self._start()
        try:
            if self.config.preload:
                guest.load(self.config.preload)
            self._prepare(guest)
        except GuestLost as lost:
            guest.close()
            raise SandboxError(f"the guest died before its first cell: {lost}") from None
        except BaseException:
            guest.close()
            raise
        return guest

    def _prepare(self, guest: Guest) -> None:
        """Puts the files into a fresh guest and lays it to rest."""
        self._restore(guest)
        guest.freeze()
        self._kept.forget_state()
        self._kept.look(guest.files)

    def _forgot(self, why: str) -> None:
        """The next result says that variables are lost, if there can be any."""
        if self._number:
            self._lost = f"{why}; variables are lost, files were kept"

    def _restore(self, guest: Guest) -> None:
        for name, data in self._kept:
            try:
                guest.files.put(name, data)
            except OSError as error:
                said = f"file {name!r} could not be put back: {error.strerror or error}"
                self._lost = f"{self._lost}; {said}" if self._lost else said

    def _drop(self) -> None:
        guest, self._guest = self._guest, None
        if guest is not None:
            guest.close()

    def _on_files(self, what: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except OSError as error:
            raise SandboxError(f"{what}: {error.strerror or error}") from None
        except GuestLost as lost:
            self._drop()
            raise SandboxError(f"{what}: {lost}") from None

    def _run(self, code: str, limit: float) -> Result:
        """One cell; where the guest was lost before the code began, the same in a fresh one."""
        begin = time.monotonic()
        for again in (True, False):
            cell, files = self._next_cell(), []
            try:
                files = self._attempt(cell, code, limit)
                status, reason = self._ending(cell, limit)
                break
            except GuestLost as lost:
                status, reason = "killed", self._lose(cell, lost)
                if cell.begun or cell.stop_requested or self._closed or not again:
                    break
                self._forgot(f"the interpreter could not run another cell ({lost})")
        return Result(
            status, cell.transcript.outputs(), tuple(files), tuple(cell.notices), reason, time.monotonic() - begin
        )

    def _next_cell(self) -> Cell:
        guest, warming = self._ready(), self._warming
        self._number += 1
        if warming is not None:
            warming.kill()  # too late for it
        cell = Cell(guest, self.config, self._number)
        if self._lost is not None:
            cell.notices.append(self._lost)
            self._lost = None
        return cell

    def _attempt(self, cell: Cell, code: str, limit: float) -> Infos:
        """Runs the cell and returns the files that are new.

        Raises:
            GuestLost: the guest is dead or must die.
        """
        try:
            self._cell = cell
            cell.guest.thaw()
            self._carry_out(cell, code, limit)
            cell.guest.freeze()
            return self._look(cell, cell.guest)
        except GuestLost:
            raise
        except BaseException:
            if not cell.settled:
                self._drop()  # a second Ctrl-C: nothing may go on by itself
                self._forgot("the interpreter had to be restarted")
            raise
        finally:
            self._cell = None
            self.used_at = time.monotonic()

    def _carry_out(self, cell: Cell, code: str, limit: float) -> None:
        try:
            cell.run(code, limit)
        except GuestLost:
            raise
        except BaseException:  # Ctrl-C in the host: the guest must not go on by itself, nor be lost without need
            with suppress(GuestLost):
                cell.settle()
            raise

    def _look(self, cell: Cell, guest: Guest) -> "Infos":
        try:
            files, notices = self._kept.look(guest.files)
        except (OSError, SandboxError) as error:
            files, notices = [], [f"files under {WORK} could not be looked at: {getattr(error, 'strerror', error)}"]
        cell.notices += notices
        return files

    def _ending(self, cell: Cell, limit: float) -> tuple[Any, str | None]:
        if cell.interrupted == "timeout":
            return "timeout", f"timeout: stopped after {limit:g} s; variables are kept"
        if cell.interrupted is not None:
            return "error", "interrupted: the code was stopped; variables are kept"
        return ("ok" if cell.success else "error"), None

    def _lose(self, cell: Cell, lost: GuestLost) -> str:
        """Ends a guest that cannot go on, and says why."""
        guest = cell.guest
        with suppress(GuestLost):
            cell.finish()
        how = ""
        if lost.key == "crash":
            with suppress(TimeoutExpired):
                how = f" ({_exit_text(guest.process.wait(1))})"
        self._drop()
        self._kept.forget_state()
        if self._closed:
            return "closed: the sandbox was closed while the code ran"
        return (
            f"{lost.key}: {lost}{how}; variables are lost, the next cell gets a fresh interpreter with the files kept"
        )


def _exit_text(code: int) -> str:
    number = code - 128 if code > 128 else -code
    return f"signal {number}" if code < 0 or 128 < code < 160 else f"exit status {code}"


def close_all() -> None:
    """Closes every sandbox of this process that is still open."""
    for sandbox in list(_open):
        sandbox.close()


atexit.register(close_all)
