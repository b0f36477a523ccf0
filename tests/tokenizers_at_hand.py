"""The tokenizers the tests run on: the tiny one always, the real one where the full golden tree stands."""

import functools
import json

import no_deadline  # noqa: F401
from golden_data import COMMITTED, FULL, REAL_TOKENIZER, golden_file, golden_roots

from chatglm.model.tokenizer import ChatGLMTokenizer

FILES = {"tiny": golden_file("tiny_tokenizer/tokenizer.model")}
if REAL_TOKENIZER.is_file():
    FILES["real"] = REAL_TOKENIZER

# (root, tokenizer) with golden data; the committed copy knows only the tiny one
SETS = [(root, name) for root in golden_roots() for name in FILES if name == "tiny" or root == FULL]
assert (COMMITTED, "tiny") in SETS


@functools.cache
def tokenizer(name="tiny", version="chatglm3", encode_special_tokens=False):
    return ChatGLMTokenizer(FILES[name], version=version, encode_special_tokens=encode_special_tokens)


def golden(root, relative):
    return json.loads((root / "tokenization" / relative).read_text(encoding="utf-8"))
