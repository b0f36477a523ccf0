"""Files by request of the host, for guests whose file system it cannot reach (containers)."""

import base64
import os
import stat
from typing import Any


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Carries out put, get or list below the work folder and returns the answering frame."""
    try:
        return {"t": "file", "id": request["id"], **_OPERATIONS[request["op"]](request)}
    except (OSError, ValueError) as error:
        return {"t": "file", "id": request["id"], "failed": f"{type(error).__name__}: {error}"}


def _put(request: dict[str, Any]) -> dict[str, Any]:
    path = os.path.join(request["work"], request["name"])
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    if os.path.lexists(path):
        os.unlink(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(base64.b64decode(request["data"]))
    except OSError:  # half a file is worse than none
        os.unlink(path)
        raise
    return {}


def _get(request: dict[str, Any]) -> dict[str, Any]:
    path = os.path.join(request["work"], request["name"])
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        file.seek(request["offset"])
        return {"data": base64.b64encode(file.read(request["length"])).decode()}


def _list(request: dict[str, Any]) -> dict[str, Any]:
    found: list[list[Any]] = []
    for folder, _, names in os.walk(request["work"]):
        for name in names:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and len(found) < request["limit"]:
                found.append([os.path.relpath(path, request["work"]), status.st_size, status.st_mtime])
    return {"files": found}


_OPERATIONS = {"put": _put, "get": _get, "list": _list}
