"""Part of the package's build: compiles the CPU kernels. Without a C++ compiler the package is built without them."""

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "src/chatglm/native/libchatglm.so"


class NativeKernels(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the shared library beside its binding, in the source tree and in the wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        native = runpy.run_path(str(Path(self.root, "native", "build.py")))
        try:
            native["build"](Path(self.root, LIBRARY))
        except native["BuildError"] as error:
            Path(self.root, LIBRARY).unlink(missing_ok=True)
            self.app.display_warning(f"chatglm is installed without its CPU kernels, torch is used instead: {error}")
            return
        build_data["artifacts"].append(LIBRARY)
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"  # the library knows nothing of Python
