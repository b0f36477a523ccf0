"""The three generations side by side: every figure follows from a configuration, and docs/models.md says the same."""

import json
import shutil
from pathlib import Path

import pytest
from first_folder import first_folder
from golden_v1 import golden_json

import chatglm
from chatglm.cli import main
from chatglm.errors import CheckpointError, ConfigError
from chatglm.folders.compare import facts
from chatglm.folders.describe import describe, info_text
from chatglm.folders.quantize import quantize_folder
from chatglm.model.config import ChatGLMConfig, read_config
from chatglm.model.v1.config import ChatGLM1Config

DOCS = Path(__file__).parents[2] / "docs" / "models.md"
LATER = {"multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True}
RELEASES = {release["name"]: release["config"] for release in golden_json("configs/configs.json")["configs"]}
NEWEST = next(config for name, config in RELEASES.items() if name.startswith("chatglm-6b v1.1.0"))


def test_the_table_of_the_documents() -> None:
    columns = [
        facts(ChatGLM1Config.from_dict(NEWEST), "ChatGLM-6B"),
        facts(ChatGLMConfig(seq_length=32768, **LATER), "ChatGLM2"),
        facts(ChatGLMConfig(seq_length=8192, **LATER), "ChatGLM3"),
    ]
    text = DOCS.read_text(encoding="utf-8")
    for name in columns[0]:
        assert f"| {name} | {' | '.join(column[name] for column in columns)} |" in text


def test_the_figures_of_chatglm_6b() -> None:
    config = ChatGLM1Config.from_dict(NEWEST)
    found = facts(config, "ChatGLM-6B")
    linears = 28 * (4096 * 3 * 4096 + 3 * 4096 + 4096 * 4096 + 4096 + 2 * 4096 * 16384 + 16384 + 4096)
    norms = (2 * 28 + 1) * 2 * 4096
    assert found["parameters"] == f"{linears + norms + 130528 * 4096:,}"
    assert found["cache"] == f"{28 * 2 * 4096 * 2:,} bytes a token (16 bits)"


@pytest.mark.parametrize(("release", "name"), [("chatglm-6b-int4 (vocabulary 130528)", "ChatGLM-6B-int4")])
def test_names_of_releases(release: str, name: str, tmp_path: Path) -> None:
    from chatglm.folders.describe import guess_variant

    (tmp_path / "config.json").write_text(json.dumps(RELEASES[release]))
    assert guess_variant(tmp_path, ChatGLM1Config.from_dict(RELEASES[release]))[0] == name


def test_info_and_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = first_folder(tmp_path / "first")
    text = info_text(folder)
    assert "ChatGLM-6B" in text
    assert "724 pieces" in text
    info = describe(folder)
    assert facts(info.config, "")["parameters"] == f"{info.num_parameters:,}" == "79,552"
    demo = Path(chatglm.__file__).parent / "demo" / "weights"
    assert main(["info", "--compare", str(folder), str(demo)]) == 0
    shown = capsys.readouterr().out
    assert "* activation" in shown
    assert "  context" in shown
    for wrong in (["info", str(folder), str(demo)], ["info", "--compare", str(folder)]):
        assert main(wrong) == 2


def test_quantized_folders_answer(tmp_path: Path) -> None:
    folder = first_folder(tmp_path / "first")
    quantize_folder(folder, tmp_path / "int8", "int8")
    quantize_folder(folder, tmp_path / "official", "int8-rowwise", format="official")
    answers = []
    for name in ("int8", "official"):
        model, tokenizer = chatglm.load(tmp_path / name)
        answers.append(model.chat(tokenizer, "你好", do_sample=False, max_new_tokens=4)[0])
        assert (tmp_path / name / "ice_text.model").is_file()
    full, tokenizer = chatglm.load(tmp_path / "official", dequantize=True)
    assert full.chat(tokenizer, "你好", do_sample=False, max_new_tokens=4)[0]
    assert all(answers)
    with pytest.raises(ConfigError, match="ChatGLM-6B"):
        quantize_folder(folder, tmp_path / "gptq", "int4", method="gptq", text="a b c")


def test_what_is_for_the_later_generations(tmp_path: Path) -> None:
    folder = first_folder(tmp_path / "first")
    with pytest.raises(CheckpointError, match="first-generation"):
        read_config(folder)
    (folder / "ice_text.model").unlink()
    with pytest.raises(CheckpointError, match=r"ice_text\.model"):
        chatglm.load(folder)
    assert "missing" in info_text(folder)
    shutil.rmtree(folder)
