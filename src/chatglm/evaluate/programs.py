"""Whether a program passes its tests. It is run in the sandbox, in a guest of its own, or not at all."""

import secrets

from chatglm.evaluate.item import Item

SECONDS = 30.0  # for the program, and again for its tests; on a busy machine ten are not enough for all of MBPP


class ProgramJudge:
    """Runs programs; guests are kept ready while it is used."""

    def __init__(self, seconds: float = SECONDS) -> None:
        from chatglm.sandbox.pool import SandboxPool

        self.seconds = seconds
        self._pool: SandboxPool | None = None

    def start(self) -> None:
        """Starts the guests.

        Raises:
            SandboxError: nothing here can isolate programs; the message says what to install.
        """
        from chatglm.sandbox import SandboxConfig
        from chatglm.sandbox.pool import SandboxPool

        if self._pool is None:
            self._pool = SandboxPool(1, SandboxConfig(wall_seconds=self.seconds), preload=())

    def grade(self, code: str, item: Item) -> tuple[float, str]:
        """1 if the program survives its tests, else 0 and why.

        Raises:
            SandboxError: no guest starts any more.
        """
        self.start()
        assert self._pool is not None
        passed = secrets.token_hex(16)  # the program cannot know it; who prints it has run the tests to their end
        with self._pool.take() as sandbox:
            # What MBPP calls set-up makes objects of the program's classes: it stands behind the program.
            for part in (code, "\n".join((item.setup, *item.tests, f"print({passed!r})"))):
                # Through compile, so that it is Python and not IPython's language.
                result = sandbox.run(f"exec(compile({part!r}, 'answer.py', 'exec'), globals())", self.seconds)
                if result.status != "ok":
                    return 0.0, result.reason or (result.error or result.status).strip().split("\n")[-1][:200]
        if passed not in result.stdout:
            return 0.0, "the tests did not run to their end"
        return 1.0, ""

    def close(self) -> None:
        """Ends the guests."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
