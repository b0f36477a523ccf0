"""The official Gradio demo by its name: `MODEL_PATH=THUDM/chatglm3-6b python web_demo_gradio.py`.

Options are those of `chatglm web`, which this is; without MODEL_PATH it shows the embedded model.
"""

import os
import sys

from chatglm.cli import main

model = os.environ.get("MODEL_PATH")
sys.exit(main(["web", *([model] if model else []), *sys.argv[1:]]))
