"""Store a model in 4 bits, load it again, and export it for stock transformers."""

import tempfile
from pathlib import Path

import chatglm
from chatglm.folders.convert import convert
from chatglm.folders.describe import info_text

model, tokenizer = chatglm.load(quantize="int4")
with tempfile.TemporaryDirectory() as name:
    folder = Path(name) / "tiny-int4"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(info_text(folder))
    again, tokenizer = chatglm.load(folder)
    print(again.chat(tokenizer, "Hello!", do_sample=False)[0])
    convert(folder, Path(name) / "tiny-glm", to="glm")
    print(sorted(path.name for path in (Path(name) / "tiny-glm").iterdir()))
