"""The first program of a guest: takes the others' source from the host, so that no path of the host has to be shown.

It is handed to Python as `-c TEXT READ_FD WRITE_FD`.
"""

import json
import os
import struct
import sys
import types

PACKAGE = "sandbox_guest"


def boot(read_fd: int, write_fd: int) -> None:
    """Loads the package and runs it."""
    if read_fd == 0:  # a container has no other descriptors: frames move away, what is printed joins the errors
        read_fd, write_fd = os.dup(0), os.dup(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)

    def exactly(length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = os.read(read_fd, length - len(data))
            if not piece:
                os._exit(0)  # the host is gone before anything began
            data += piece
        return data

    sources = json.loads(exactly(*struct.unpack(">I", exactly(4))))["sources"]
    package = sys.modules[PACKAGE] = types.ModuleType(PACKAGE)
    package.__path__ = []
    for name, source in sources:
        module = sys.modules[f"{PACKAGE}.{name}"] = types.ModuleType(f"{PACKAGE}.{name}")
        module.__package__ = PACKAGE
        exec(compile(source, f"<{PACKAGE}.{name}>", "exec"), module.__dict__)  # noqa: S102  # our own files, in the guest
        setattr(package, name, module)
    sys.modules[f"{PACKAGE}.main"].main(read_fd, write_fd)


if __name__ == "__main__":
    boot(int(sys.argv[1]), int(sys.argv[2]))
