"""What the gate looks at besides where Gradio stands behind it: whose page is meant, and what no page asks for."""

from __future__ import annotations

import re
import shutil
from typing import Any
from urllib.parse import parse_qs

from chatglm.web.gate import Gate, Message, RefusedError

_PAGE = re.compile(r"/heartbeat/([\w-]+)$")
# Of Gradio's own interface, what its page uses. The rest lets a program cancel, read or feed the events of others whose
# names it knows (`cancel`, `call`, `stream`), or is of no use here.
_USED = re.compile(
    r"/gradio_api/"
    r"(?:queue/(?:join|data)|run/[^/]+|heartbeat/[^/]+|upload|upload_progress|file=.*|info|startup-events|theme\.css)/?"
)


class GradioGate(Gate):
    """The gate of a Gradio page.

    Args:
        uploads: the folder of uploads; None: how full its disk is does not matter.
    """

    def __init__(self, *gate: Any, uploads: str | None = None) -> None:
        super().__init__(*gate)
        self.uploads = uploads

    def check(self, scope: Message, key: str) -> None:
        path = scope["path"]
        if path.startswith("/gradio_api") and not _USED.fullmatch(path):
            raise RefusedError(404, "there is nothing here that a page needs\n")
        # The name of a page is made by the browser, and so no secret to count on. All that are named: of a name that
        # is given twice, frameworks differ in which one they read.
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        pages = [*_PAGE.findall(path), *query.get("session_hash", ())]
        if not {self.visitors.owner(page) for page in pages} <= {None, key}:
            raise RefusedError(403, "this page belongs to another visitor\n")

    def is_upload(self, path: str) -> bool:
        return path.rstrip("/").endswith("/upload")

    def free(self) -> float:
        return super().free() if self.uploads is None else shutil.disk_usage(self.uploads).free
