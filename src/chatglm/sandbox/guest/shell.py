"""The notebook shell: IPython without its terminal, whose outputs become frames.

IPython rather than an own loop, because what people (and models) write in notebooks is IPython: rich display, `%time`,
`%%writefile`, `!ls`, top-level await, `_`, `?`. It is the same shell as Jupyter's kernel, without the sockets.
"""

import base64
import builtins
import importlib
import re
import subprocess
import sys
from typing import Any, NoReturn

from .channel import Channel

_MIMES = ("text/plain", "text/html", "text/markdown", "text/latex", "image/png", "image/jpeg")
_OWN_LINES = re.compile(r"\n\n  File <sandbox_guest\.[^\n]*(?:\n[^\n]+)*")  # the guest's part of a traceback
_NO_PROGRAM = (SyntaxError, OverflowError, ValueError, TypeError, MemoryError, KeyboardInterrupt)  # of compiling
_TEXT_PIECE = 1 << 18  # characters of one representation; the host keeps far less


def build_shell(channel: Channel, image_size: int) -> Any:
    """An InteractiveShell whose outputs go to the host.

    Raises:
        ImportError: IPython is not installed in the guest's Python.
    """
    interactive = importlib.import_module("IPython.core.interactiveshell")
    config = importlib.import_module("traitlets.config").Config()
    config.HistoryManager.enabled = False  # no database file
    config.InteractiveShell.xmode = "Plain"  # the lines that matter, without pages of library source
    config.InteractiveShell.cache_size = 100
    shell = interactive.InteractiveShell.instance(config=config)
    major = importlib.import_module("IPython.core.release").version_info[0]
    shell.colors = "nocolor" if major >= 9 else "NoColor"
    _connect(shell, channel, image_size)
    shell.system = lambda command: shell.user_ns.update(_exit_code=_system(command))
    shell.enable_gui = lambda gui=None: None  # `%matplotlib inline` asks for it; there is no event loop to enter
    shell.ask_exit = lambda: None  # `exit` in a cell ends nothing
    builtins.input = _no_input
    sys.breakpointhook = _no_debugger
    for magic in ("debug", "pdb"):  # `%pdb on` would answer every later error with a debugger that waits for a keyboard
        shell.register_magic_function(_no_debugger, "line_cell" if magic == "debug" else "line", magic)
    shell.user_ns["__name__"] = "__main__"
    return shell


def _connect(shell: Any, channel: Channel, image_size: int) -> None:
    """Display, results and tracebacks as frames. Streams are emptied first, so that the order is the code's."""

    def send(kind: str, data: dict[str, Any]) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        channel.send({"t": kind, "data": bundle(data, image_size)})

    def traceback_frame(_type: Any, _value: Any, lines: list[str]) -> None:
        send("error", {"text/plain": _OWN_LINES.sub("", "\n".join(lines))})

    hook = shell.displayhook
    hook.start_displayhook = hook.write_output_prompt = hook.finish_displayhook = lambda *_: None
    hook.write_format_data = lambda data, metadata=None: send("result", data)
    shell.display_pub.publish = lambda data, *_, **__: send("display", data)
    shell.display_pub.clear_output = lambda wait=False: None
    shell._showtraceback = traceback_frame


def bundle(data: dict[str, Any], image_size: int) -> dict[str, str]:
    """The representations the host takes, as text; pictures as base64, larger ones only named."""
    kept = {}
    for mime in _MIMES:
        value = data.get(mime)
        if mime.startswith("image/") and value is not None:
            value = base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
            if len(value) > image_size * 4 // 3 + 4:
                kept["too_large"] = mime
                continue
        if isinstance(value, str):
            kept[mime] = value if mime.startswith("image/") else value[:_TEXT_PIECE]
    return kept


def show_figures(shell: Any) -> None:
    """Figures are shown at the end of a cell, whatever the cells before have done to the shell's events."""
    inline, matplotlib = sys.modules.get("matplotlib_inline.backend_inline"), sys.modules.get("matplotlib")
    if inline is None or matplotlib is None or "inline" not in matplotlib.get_backend():
        return
    if inline.flush_figures not in shell.events.callbacks["post_execute"]:
        shell.events.register("post_execute", inline.flush_figures)


def _no_input(prompt: object = "") -> NoReturn:
    raise RuntimeError("input() has nobody to ask: the code runs without a keyboard")


def _no_debugger(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("a debugger has nobody to ask: the code runs without a keyboard")


def _system(command: str) -> int:
    """`!command`: its output line by line, in order with everything else (IPython's own way asks for a terminal).

    A command in the background would be waited for, because it holds the pipe: notebooks refuse it, and so does this.
    """
    if command.rstrip().endswith("&"):
        raise OSError("background processes are not supported; start them with subprocess.Popen")
    with subprocess.Popen(
        command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
    return process.returncode


def run_cell(shell: Any, channel: Channel, code: str) -> bool:
    """Runs one cell; whether it ended without an error.

    Raises:
        BaseException: the shell itself is broken, or what the code has hung on it keeps cells from beginning. What the
            code itself raises is shown by the shell and stays in it.
    """
    run_code, begun = type(shell).run_code, False

    def begin(*values: Any, **options: Any) -> Any:
        nonlocal begun
        if not begun:
            begun = True
            channel.send({"t": "begun"})  # a guest that is lost before this has run nothing of the cell
        return run_code(shell, *values, **options)

    shell.run_code = begin
    try:
        result = shell.run_cell(code, store_history=True)
        if not begun:  # it is no program, as the compiler says, or there is something in its way
            error = result.error_in_exec or result.error_before_exec
            allowed = (KeyboardInterrupt, UnicodeError) if result.error_in_exec else _NO_PROGRAM
            if error is not None and not isinstance(error, allowed):
                raise error
        return bool(result.success)
    except KeyboardInterrupt:  # it came outside the code itself
        channel.send({"t": "error", "data": {"text/plain": "KeyboardInterrupt"}})
        return False
    finally:
        vars(shell).pop("run_code", None)
