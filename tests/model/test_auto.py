"""`import chatglm` alone makes transformers' Auto classes know ours, in whatever order things are imported."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from golden_data import golden_file
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

import chatglm.model
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration, ChatGLMForSequenceClassification
from chatglm.model.tokenizer import ChatGLMTokenizer

OFFICIAL_TOKENIZER_CONFIG = """{
  "name_or_path": "THUDM/chatglm3-6b", "remove_space": false, "do_lower_case": false,
  "tokenizer_class": "ChatGLMTokenizer",
  "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", null]}
}"""
BOOM = "raise RuntimeError('remote code was executed')\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An official-looking folder, with code in it that must never run."""
    path = tmp_path_factory.mktemp("chatglm3-6b")
    source = golden_file("generation") / "model"
    config = (source / "config.json").read_text()
    auto_map = (
        '"auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig", "AutoModel": "modeling_chatglm.Boom"},'
    )
    (path / "config.json").write_text(config.replace("{", "{" + auto_map, 1))
    shutil.copy(source / "model.safetensors", path)
    shutil.copy(golden_file("tiny_tokenizer/tokenizer.model"), path)
    (path / "tokenizer_config.json").write_text(OFFICIAL_TOKENIZER_CONFIG)
    for name in ("configuration_chatglm", "modeling_chatglm", "tokenization_chatglm"):
        (path / f"{name}.py").write_text(BOOM)
    return path


@pytest.mark.parametrize("trust", [True, False, None])
def test_official_folder_without_its_code(folder: Path, trust: bool | None) -> None:
    options = {} if trust is None else {"trust_remote_code": trust}
    assert type(AutoConfig.from_pretrained(folder, **options)) is ChatGLMConfig
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    assert type(tokenizer) is ChatGLMTokenizer
    assert tokenizer.version == "chatglm3"
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, **options)
    assert type(model) is ChatGLMForConditionalGeneration
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, **options)
    assert type(model) is ChatGLMForSequenceClassification
    assert model.classifier_head.out_features == 3


def test_folder_without_tokenizer_config(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "chatglm3")
    (tmp_path / "chatglm3" / "tokenizer_config.json").unlink()
    assert type(AutoTokenizer.from_pretrained(tmp_path / "chatglm3")) is ChatGLMTokenizer


def test_the_official_device_argument(folder: Path) -> None:
    model = ChatGLMForConditionalGeneration.from_pretrained(folder, device="cpu", empty_init=True)
    assert model.device.type == "cpu"


ORDERS = [
    "import chatglm; from transformers import AutoModel, AutoTokenizer",
    "from transformers import AutoModel, AutoTokenizer; import chatglm",
    "import transformers; import chatglm; from transformers import AutoModel, AutoTokenizer",
    "import chatglm; from transformers import pipeline, AutoModel, AutoTokenizer",
    "import chatglm; from transformers import Trainer, AutoModel, AutoTokenizer",
]

MODULES = sorted(path.stem for path in Path(chatglm.model.__file__).parent.glob("*.py") if path.stem != "__init__")
EVERY_MODULE = [f"import chatglm.model.{name}; from transformers import AutoModel, AutoTokenizer" for name in MODULES]


@pytest.mark.slow
@pytest.mark.parametrize("order", [*ORDERS, *EVERY_MODULE])
def test_any_order_of_imports(folder: Path, order: str) -> None:
    code = f"""{order}
model = AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained({str(folder)!r}, trust_remote_code=True)
print(type(model).__module__, type(tokenizer).__module__)
response, history = model.chat(tokenizer, "hi", max_new_tokens=3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["chatglm.model.network", "chatglm.model.tokenizer"]
