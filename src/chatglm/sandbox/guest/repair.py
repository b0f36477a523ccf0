"""Puts back what a cell broke in the interpreter that the next cell needs."""

import builtins
import os
import resource
import signal
import sys
from typing import Any

# Everything is lost without these; other built-in functions may be replaced on purpose.
_NEEDED = ("__import__", "__build_class__", "len", "isinstance", "issubclass", "getattr", "setattr", "compile", "exec")
_SEARCH = ("meta_path", "path_hooks", "path")  # of `sys`: where imports are looked for
# Held here, because what is to be repaired may be the way to them.
_callable, _current = callable, vars(builtins)


class Repair:
    """What the interpreter looked like before the first cell.

    Args:
        handler: for SIGINT.
        namespace: the variables of the cells; those that are there already are the shell's.
        work: the folder that a cell begins in where its own is gone.
    """

    def __init__(self, handler: Any, namespace: dict[str, Any], work: str) -> None:
        self._handler, self._namespace, self._work = handler, namespace, work
        self._builtins: dict[str, Any] = dict(vars(builtins))
        self._hidden = dict(namespace)
        self._modules, self._loaded = sys.modules, dict(sys.modules)
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._recursion, self._switch = sys.getrecursionlimit(), sys.getswitchinterval()
        self._search = [(name, getattr(sys, name), list(getattr(sys, name))) for name in _SEARCH]
        kinds = {getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
        self._limits = [(kind, resource.getrlimit(kind)) for kind in kinds]
        self._spare = [os.dup(descriptor) for descriptor in range(3)]

    def __call__(self) -> list[str]:
        """Puts everything back and names it."""
        found = self._repair_builtins()  # first: everything after it needs them
        found += self._repair_modules() + self._repair_search()
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
        for name, value in self._hidden.items():  # `Out`, `get_ipython` and the like, after `globals().clear()`
            self._namespace.setdefault(name, value)
        self._repair_process()
        return found

    def _repair_process(self) -> None:
        """What later cells expect and do not look at."""
        # Without these the next cell could not be interrupted, only killed.
        signal.signal(signal.SIGINT, self._handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.settrace(None)
        sys.setprofile(None)
        sys.setswitchinterval(self._switch)
        os.umask(0o077)
        for kind, limits in self._limits:
            if resource.getrlimit(kind) != limits:
                resource.setrlimit(kind, limits)  # fails where the code has given up the right to it
        try:
            os.getcwd()
        except OSError:  # removed
            os.chdir(self._work)

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
        modules = sys.modules = self._modules  # the interpreter itself goes on with the first one
        lost = [name for name, module in self._loaded.items() if modules.get(name) is not module]
        for name in lost:
            modules[name] = self._loaded[name]
        return [f"sys.modules[{name!r}]" for name in lost]

    def _repair_search(self) -> list[str]:
        found = []
        for name, place, first in self._search:
            now = getattr(sys, name, None)
            whole = isinstance(now, list) and all(entry in now for entry in first)
            if not whole:
                found.append(f"sys.{name}")
            if now is not place or not whole:
                place[:] = now if whole else first
                setattr(sys, name, place)
        return found
