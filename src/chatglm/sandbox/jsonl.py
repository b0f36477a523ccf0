"""One isolated guest for other programs: a JSON request per line, a JSON answer per line.

    {"op": "run", "id": 1, "code": "6 * 7", "timeout": 5}
    {"id": 1, "status": "ok", "stdout": "", "stderr": "", "result": "42", "error": null, ...}

`put` (name, b64), `get` (name), `list`, `restart` and `close` work alike. Every line gets one answer, in order; what
cannot be carried out gets status "refused" and a reason.
"""

import base64
import binascii
import json
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from typing import IO, Any, NoReturn

from chatglm.errors import ChatGLMError, SandboxError

from .config import SandboxConfig
from .result import FileInfo, Result
from .sandbox import Sandbox
from .tiers import open_sandbox

_FIELDS = {
    "run": {"code", "timeout"}, "put": {"name", "b64"}, "get": {"name"}, "list": set[str](), "restart": set[str](),
    "close": set[str](),
}  # fmt: skip


def serve_jsonl(
    stdin: IO[Any],
    stdout: IO[Any],
    config: SandboxConfig | None = None,
    tier: str = "auto",
    *,
    dangerously_run_unisolated: bool = False,
) -> None:
    """Answers requests until `close` or the end of the input.

    Args:
        stdin, stdout: text streams over bytes, such as `sys.stdin`, or binary streams.

    Raises:
        SandboxError: no sandbox can be opened here.
    """
    requests, answers = getattr(stdin, "buffer", stdin), getattr(stdout, "buffer", stdout)
    with open_sandbox(tier, config, dangerously_run_unisolated=dangerously_run_unisolated) as sandbox:
        longest = sandbox.config.transfer_size * 4 // 3 + 8 * sandbox.config.code_chars + 4096
        for line in _lines(requests, longest):
            answer = (
                _refused(None, f"the line is longer than {longest} bytes") if line is None else _answer(sandbox, line)
            )
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()
            if answer["status"] == "ok" and answer.get("closed"):
                return


def main(config: SandboxConfig | None = None, tier: str = "auto", *, dangerously_run_unisolated: bool = False) -> int:
    """`chatglm sandbox --jsonl` on the standard streams; returns the exit status.

    Raises:
        SandboxError: no sandbox can be opened here, or the standard streams cannot be used.
    """
    if sys.stdin is None or sys.stdout is None:
        raise SandboxError("standard input or output is closed; requests and answers go through both")
    try:
        serve_jsonl(sys.stdin, sys.stdout, config, tier, dangerously_run_unisolated=dangerously_run_unisolated)
    except (BrokenPipeError, KeyboardInterrupt):
        return 1  # nobody reads any more
    except OSError as error:
        raise SandboxError(f"requests or answers do not get through: {error.strerror or error}") from error
    return 0


def _lines(stream: IO[bytes], longest: int) -> Iterator[bytes | None]:
    """Lines without blank ones; None for one that is too long, which is read to its end and forgotten."""
    first = True
    while line := stream.readline(longest + 1):
        line, first = line.removeprefix(BOM_UTF8) if first else line, False
        if len(line) <= longest:
            if line.strip():
                yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(1 << 20)
        yield None


def _refused(number: Any, reason: str) -> dict[str, Any]:
    return {"id": number, "status": "refused", "reason": reason}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _answer(sandbox: Sandbox, line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
        json.dumps(request, allow_nan=False)  # 1e999 is read as infinity, which could not be sent back
    except (ValueError, RecursionError) as error:
        return _refused(None, f"the line is not JSON: {type(error).__name__}: {str(error)[:200]}")
    if not isinstance(request, dict):
        return _refused(None, f"the request is a {type(request).__name__}; it must be an object")
    number = request.pop("id", None)
    if isinstance(number, bool) or not isinstance(number, str | int | float | None):
        return _refused(None, "the id must be a string, a number or null")
    operation = request.pop("op", None)
    if not isinstance(operation, str) or operation not in _FIELDS:
        seen = "missing" if operation is None else repr(str(operation)[:50])
        return _refused(number, f"op is {seen}; it must be one of {', '.join(_FIELDS)}")
    reason = _objection(operation, request)
    if reason is None:
        try:
            return {"id": number, **_OPERATIONS[operation](sandbox, **request)}
        except (ChatGLMError, OSError) as error:  # OSError: this process has run out of descriptors, for example
            reason = str(error)
    empty = answer_of(Result("refused")) if operation == "run" else {}  # every answer to run has the same fields
    return {**empty, **_refused(number, reason)}


def _objection(operation: str, request: dict[str, Any]) -> str | None:
    """What is wrong with the fields of a request."""
    unknown = request.keys() - _FIELDS[operation]
    if unknown:
        return f"{operation} has no field {min(unknown)[:50]!r}"
    missing = _FIELDS[operation] - {"timeout"} - request.keys()
    return f"{operation} needs {' and '.join(sorted(missing))}" if missing else None


def _run(sandbox: Sandbox, code: str, timeout: float | None = None) -> dict[str, Any]:
    return answer_of(sandbox.run(code, timeout))


def answer_of(result: Result) -> dict[str, Any]:
    """A result as JSON."""
    return {
        "status": result.status, "stdout": result.stdout, "stderr": result.stderr, "result": result.result,
        "error": result.error, "reason": result.reason, "notices": list(result.notices), "files": _infos(result.files),
        "images": [{"mime": image.mime, "b64": base64.b64encode(image.data).decode()} for image in result.images],
        "seconds": round(result.seconds, 4),
    }  # fmt: skip


def _infos(files: "tuple[FileInfo, ...] | list[FileInfo]") -> list[dict[str, Any]]:
    return [{"name": file.name, "size": file.size} for file in files]


def _put(sandbox: Sandbox, name: str, b64: str) -> dict[str, Any]:
    try:
        data = base64.b64decode(b64, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise SandboxError(f"b64 is not base64: {error}") from None
    sandbox.put(name, data)
    return {"status": "ok", "reason": None}


def _get(sandbox: Sandbox, name: str) -> dict[str, Any]:
    return {"status": "ok", "b64": base64.b64encode(sandbox.get(name)).decode(), "reason": None}


def _list(sandbox: Sandbox) -> dict[str, Any]:
    return {"status": "ok", "files": _infos(sandbox.list()), "reason": None}


def _restart(sandbox: Sandbox) -> dict[str, Any]:
    sandbox.restart()
    return {"status": "ok", "reason": None}


def _close(sandbox: Sandbox) -> dict[str, Any]:
    sandbox.close()
    return {"status": "ok", "closed": True, "reason": None}


_OPERATIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "run": _run, "put": _put, "get": _get, "list": _list, "restart": _restart, "close": _close,
}  # fmt: skip
