"""The tasks: a file each, which says what is asked, how, and how it is graded."""

from collections.abc import Mapping

from chatglm.errors import UsageError
from chatglm.evaluate.task import Task
from chatglm.evaluate.tasks import agieval, bbh, bfcl, ceval, cmmlu, gsm8k, longbench, math, mbpp, mmlu, needle

TASKS: Mapping[str, Task] = {
    module.TASK.name: module.TASK
    for module in (gsm8k, math, bbh, mmlu, ceval, cmmlu, mbpp, agieval, longbench, bfcl, needle)
}


def named(text: str) -> list[tuple[Task, str | None]]:
    """The tasks of `gsm8k,ceval:two-pass`: each with the protocol named for it, or None.

    Raises:
        UsageError: a task or a protocol that is not known, or one twice.
    """
    found: list[tuple[Task, str | None]] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, protocol = part.partition(":")
        if name not in TASKS:
            raise UsageError(f"there is no task {name!r}; it must be one of: {', '.join(TASKS)}")
        TASKS[name].protocol(protocol if colon else None)
        chosen = (TASKS[name], protocol if colon else next(iter(TASKS[name].protocols)))
        if chosen in found:
            raise UsageError(f"task {part!r} is named twice")
        found.append(chosen)
    if not found:
        raise UsageError(f"--tasks names no task; it must be some of: {', '.join(TASKS)}")
    return found
