"""The code interpreter: Python with notebook semantics in a guest that cannot reach anything outside.

    with open_sandbox() as sandbox:
        sandbox.put("a.csv", data)
        result = sandbox.run("import pandas; pandas.read_csv('a.csv').describe()")
        print(result.status, result.text())

What is protected: files, environment, processes, network and rights of the host, other guests, and the host's memory,
processors and disk, by limits. What is not: a hole in the Linux kernel itself, which guest and host share; the
processor's time up to the wall limit; what the program makes of the text a guest prints. docs/security.md says how
each was tested.
"""

from .config import SandboxConfig
from .jsonl import serve_jsonl
from .pool import SandboxPool
from .result import FileInfo, Image, Output, Result
from .sandbox import Sandbox
from .tiers import doctor, open_sandbox

__all__ = [
    "FileInfo", "Image", "Output", "Result", "Sandbox", "SandboxConfig", "SandboxPool", "doctor", "open_sandbox",
    "serve_jsonl",
]  # fmt: skip
