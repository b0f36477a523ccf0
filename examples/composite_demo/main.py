"""The official composite demo by its name: `MODEL_PATH=THUDM/chatglm3-6b python composite_demo/main.py`.

Chat, Tool and Code Interpreter in one page. PT_PATH, a P-Tuning v2 file or folder, is read as there; its prefix length
follows from the file, and instead of the Jupyter kernel IPYKERNEL there is an isolated interpreter. Further options are
those of `chatglm web`, which this is.
"""

import os
import sys

from chatglm.cli import main

model, prefix = os.environ.get("MODEL_PATH"), os.environ.get("PT_PATH")
sys.exit(main(["web", *([model] if model else []), *(["--prefix", prefix] if prefix else []), *sys.argv[1:]]))
