"""The official terminal demo by its name: `MODEL_PATH=THUDM/chatglm3-6b python cli_demo.py`.

`clear` and `stop` do what they do there. Options are those of `chatglm chat`; without MODEL_PATH it talks to the
embedded model.
"""

import os
import sys

from chatglm.cli import main

model = os.environ.get("MODEL_PATH")
sys.exit(main(["chat", *(["--model", model] if model else []), *sys.argv[1:]]))
