"""The options of `quantize`, `perplexity` and `convert --to gguf`, and what they come to."""

import json
from pathlib import Path
from typing import Any

import pytest

from chatglm.cli import build_parser
from chatglm.cli.folders import GGUF_DTYPES, ROUNDINGS
from chatglm.demo import WEIGHTS
from chatglm.errors import ConfigError
from chatglm.evaluate.perplexity import perplexity
from chatglm.folders.gguf import DTYPES
from chatglm.quant.rounding import METHODS


def run(*arguments: str) -> int:
    """A command, its errors not yet turned into lines."""
    options = build_parser().parse_args(arguments)
    status: int = options.handler(options)
    return status


def quantize(source: Path, target: Path, *arguments: str) -> int:
    return run("quantize", str(source), str(target), *arguments)


def test_the_choices_are_those_of_the_functions() -> None:
    assert GGUF_DTYPES == DTYPES
    assert set(ROUNDINGS) == set(METHODS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"bits": 4, "group_size": 32, "symmetric": True, "head_bits": 8, "embedding_bits": 8, "skip": []}),
        (["--bits", "8"], {"bits": 8, "group_size": None, "head_bits": 8}),
        (["--group-size", "128", "--asymmetric"], {"group_size": 128, "symmetric": False}),
        (["--group-size", "0", "--head-bits", "16", "--embedding-bits", "16"], {"head_bits": None, "group_size": None}),
        (["--head-bits", "4", "--skip", "*.layers.0.*", "--skip", "*dense"],
         {"head_bits": 4, "skip": ["*.layers.0.*", "*dense"]}),
    ],
)  # fmt: skip
def test_native_schemes(
    arguments: list[str], expected: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize(WEIGHTS, tmp_path / "q", *arguments) == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'q'}\n"
    scheme = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]["scheme"]
    assert {key: scheme[key] for key in expected} == expected


def test_official_files_by_default_have_one_scale_a_row(tmp_path: Path) -> None:
    quantize(WEIGHTS, tmp_path / "q", "--format", "official")
    assert json.loads((tmp_path / "q" / "config.json").read_text())["quantization_bit"] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "official", "--group-size", "32"], "official format cannot hold"),
        (["--sequences", "3"], "--sequences is for calibrating; give --calibrate"),
        (["--rounding", "gptq"], "without text"),
        (["--calibrate", "none.txt"], "cannot be read"),
        (["--bits", "8", "--asymmetric"], "zero points exist for 4 bits in groups"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        quantize(WEIGHTS, tmp_path / "q", *arguments)


def test_perplexity_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import chatglm

    file = tmp_path / "text.txt"
    file.write_text("The capital of France is Paris. 你好。")
    command = ("perplexity", "--text", str(file), "--device", "cpu")
    assert run(*command, "--dtype", "float32") == 0
    expected = perplexity(*chatglm.load(dtype="float32", device="cpu"), file.read_text())
    assert f"perplexity     {expected.value:.4f}\n" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="context is 0"):
        run(*command, "--context", "0")


def test_gguf_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gguf = pytest.importorskip("gguf")
    file = tmp_path / "tiny.gguf"
    assert run("convert", str(WEIGHTS), str(file), "--to", "gguf") == 0
    assert capsys.readouterr().out == f"Wrote {file}\n"
    assert gguf.GGUFReader(file).fields["general.file_type"].contents() == 1  # f16
