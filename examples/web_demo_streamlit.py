"""The official Streamlit demo by its name: `MODEL_PATH=THUDM/chatglm3-6b python web_demo_streamlit.py`.

A plain program, not one for `streamlit run`. Options are those of `chatglm web`, which this is; without MODEL_PATH it
shows the embedded model.
"""

import os
import sys

from chatglm.cli import main

model = os.environ.get("MODEL_PATH")
sys.exit(main(["web", "--ui", "streamlit", *([model] if model else []), *sys.argv[1:]]))
