"""Shows the host that the next cell will work: a cell of our own that prints, has a value, displays and fails."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ABSENT = object()
_NUMBER = -1000  # of our cell: one that no cell of theirs has
_SETTINGS = (
    "execution_count", "ast_node_interactivity", "custom_exceptions", "last_execution_result",
    "last_execution_succeeded",
)  # fmt: skip
_LAST_ERROR = ("last_type", "last_value", "last_traceback", "last_exc")  # what `%tb` and post-mortems look at


def probe(shell: Any, token: str) -> None:
    """Sends the token on every way an output can take: both streams, a value, a traceback and what is displayed.

    The host judges by what arrives, so whatever on these ways is broken is noticed, wherever it lies. Nothing that
    their code can see is different afterwards; what they hung on the shell's events and errors is not called.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.write(token)
        stream.flush()
    value = repr(token.encode())  # bytes: few register a form of their own for them. No names: theirs may hide ours.
    with _untouched(shell):
        shell.run_cell(f"{value}\n{{}}[{value}]", store_history=False)
    shell.display_pub.publish({"text/plain": token})


@contextmanager
def _untouched(shell: Any) -> Iterator[None]:
    """Sets aside what a cell changes beside its variables, and puts it back."""
    hook, history, names, callbacks = shell.displayhook, shell.history_manager, shell.user_ns, shell.events.callbacks
    functions = {event: callbacks[event] for event in callbacks}
    settings = {name: getattr(shell, name) for name in _SETTINGS}
    shell.execution_count, shell.ast_node_interactivity, shell.custom_exceptions = _NUMBER, "all", ()
    number = hook.prompt_count  # the shell's, or one less: it depends on the release
    places = [(place, number) for place in (names["_oh"], history.output_hist_reprs, getattr(history, "outputs", {}))]
    unders = ("_", "__", "___", f"_{number}")
    places += [(place, name) for place in (names, shell.user_ns_hidden, vars(hook)) for name in unders]
    places += [(vars(hook), "quiet")] + [(vars(sys), name) for name in _LAST_ERROR]
    kept = [(place, key, place.get(key, _ABSENT)) for place, key in places]
    try:
        for event in functions:
            callbacks[event] = []
        hook.quiet = lambda: False  # it looks whether their cell ended with a semicolon
        yield
    finally:
        callbacks.update(functions)
        for name, setting in settings.items():
            setattr(shell, name, setting)
        for place, key, was in kept:
            if was is _ABSENT:
                place.pop(key, None)
            else:
                place[key] = was
