"""The embedded tiny model: its text, its tokenizer, its training recipe and its weights."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"  # an official model folder, loaded like any other

NOTICE_EN = "tiny-glm, a tiny demonstration model that comes with this package. It is not Zhipu's ChatGLM."
NOTICE_ZH = "小GLM（tiny-glm），这个软件包自带的微型演示模型，不是智谱的ChatGLM。"
