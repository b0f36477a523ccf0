"""Puts back what a cell broke in the interpreter that the next cell needs."""

import builtins
import os
import signal
import sys
from types import ModuleType
from typing import Any

# Everything is lost without these; other built-in functions may be replaced on purpose.
_NEEDED = ("__import__", "__build_class__", "len", "isinstance", "issubclass", "getattr", "setattr", "compile", "exec")
# Held here, because what is to be repaired may be the way to them.
_callable, _current = callable, vars(builtins)


class Repair:
    """What the interpreter looked like before the first cell."""

    def __init__(self, handler: Any) -> None:
        self._builtins: dict[str, Any] = dict(vars(builtins))
        self._modules: dict[str, ModuleType] = dict(sys.modules)
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._recursion = sys.getrecursionlimit()
        self._handler = handler
        self._meta_path = list(sys.meta_path)
        self._spare = [os.dup(descriptor) for descriptor in range(3)]

    def __call__(self) -> list[str]:
        """Puts everything back and names it."""
        found = self._repair_builtins()  # first: everything after it needs them
        found += self._repair_modules()
        for name, stream in zip(("stdin", "stdout", "stderr"), self._streams, strict=True):
            if getattr(sys, name, None) is not stream:
                setattr(sys, name, stream)  # redirecting and forgetting is common; not worth a word
        for descriptor in range(3):
            try:
                os.fstat(descriptor)
            except OSError:  # closed: child processes need them, and a new file must not take the number
                self._reopen(descriptor)
        if sys.getrecursionlimit() < self._recursion:
            sys.setrecursionlimit(self._recursion)
            found.append("the recursion limit")
        if not all(finder in sys.meta_path for finder in self._meta_path):
            sys.meta_path[:] = self._meta_path
            found.append("sys.meta_path")
        # Without these the next cell could not be interrupted, only killed.
        signal.signal(signal.SIGINT, self._handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.settrace(None)
        sys.setprofile(None)
        return found

    def _reopen(self, descriptor: int) -> None:
        try:
            os.dup2(self._spare[descriptor], descriptor)
        except OSError:  # the spare one was closed as well: what child processes write is lost from now on
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)

    def _repair_builtins(self) -> list[str]:
        found = []
        for name, value in self._builtins.items():
            now = _current.get(name, None)
            if now is value or (now is not None and name not in _NEEDED and _callable(now)):
                continue  # as it was, or replaced by something that may well be meant
            if name not in ("_", "__debug__"):
                _current[name] = value
                found.append(f"builtins.{name}")
        return found

    def _repair_modules(self) -> list[str]:
        modules = sys.modules
        lost = [name for name, module in self._modules.items() if modules.get(name) is not module]
        for name in lost:
            modules[name] = self._modules[name]
        return [f"sys.modules[{name!r}]" for name in lost]
