"""A Python that has imported the large packages once and forks for every program it is asked to run.

Importing torch and transformers takes seconds, and that they can be imported needs no proof in every test that runs a
program. All the rest is as with `python`: a process and a session of its own, its own streams, folder, environment,
arguments and exit status, and this package imported anew. `warm_client.py` stands where `python` stands in a command;
the fixture `python` gives both.
"""

import atexit
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import termios
import threading
import types

LARGE = ("transformers.generation", "transformers.modeling_utils", "transformers.tokenization_utils_base")
LARGE += (
    "transformers.models.auto",
    "prompt_toolkit",
    "fastapi",
    "uvicorn.protocols.http.h11_impl",
    "uvicorn.lifespan.on",
)
STDIN, STDOUT, STDERR = 0, 1, 2
INTERRUPTED = -signal.SIGINT


def serve(listener: socket.socket) -> list[str]:
    """Returns in the process of each program, with its command line. Ends with standard input: the tests are over."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that watch
    while True:
        if STDIN in select.select([listener, STDIN], [], [])[0]:
            os._exit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            return watch(connection)
        connection.close()


def watch(connection: socket.socket) -> list[str]:
    """Starts a program, tells the client its number and how it ended, and ends it when the client is gone."""
    message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    child = os.fork()
    if child == 0:
        connection.close()
        return become(json.loads(message), streams)
    for stream in streams:
        os.close(stream)
    connection.send(str(child).encode())
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            connection.send(str(status).encode())
            os._exit(0)
        if select.select([connection], [], [], 0.01)[0]:  # a client says nothing more: it was killed
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os._exit(0)


def become(program: dict, streams: list[int]) -> list[str]:
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    if program["terminal"]:
        fcntl.ioctl(STDIN, termios.TIOCSCTTY, 0)
    os.chdir(program["folder"])
    environment = program["environment"]
    for name in {*os.environ, *environment}:
        if name.startswith(("PYTHON", "OMP_")) and os.environ.get(name) != environment.get(name):
            sys.exit(f"warm_server.py: {name} is read when Python starts; run this program with sys.executable")
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin = sys.__stdin__ = os.fdopen(STDIN, encoding="utf-8", closefd=False)
    lines = 1 if os.isatty(STDOUT) or os.environ.get("PYTHONUNBUFFERED") else -1
    sys.stdout = sys.__stdout__ = os.fdopen(STDOUT, "w", lines, encoding="utf-8", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(STDERR, "w", 1, "utf-8", "backslashreplace", closefd=False)
    return program["arguments"]


def run(arguments: list[str]) -> None:
    """As `python` would: a file, `-m module` or `-c code`."""
    kind, *rest = arguments
    if kind == "-c":
        code, *sys.argv[1:] = rest
        sys.argv[0], sys.path[0] = "-c", ""
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))  # noqa: S102 a test's own program
    elif kind == "-m":
        sys.argv[:], sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:], sys.path[0] = arguments, os.path.dirname(os.path.realpath(kind))
        runpy.run_path(kind, run_name="__main__")


def end(status: object = None) -> None:
    """As the interpreter ends, without taking thousands of modules apart: in a forked process that takes a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)  # noqa: T201 what `sys.exit` was given
    sys.stdout.flush()
    if status == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status if isinstance(status, int) else status is not None)


if __name__ == "__main__":
    for name in LARGE:
        importlib.import_module(name)
    gc.freeze()  # no search for garbage copies what was imported
    try:
        run(serve(socket.socket(fileno=int(sys.argv[1]))))
    except SystemExit as finished:
        end(finished.code)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        end(INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1)
    end()
