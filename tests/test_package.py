"""What `import chatglm` gives, and what it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import chatglm

HEAVY = ("torch", "transformers", "numpy", "prompt_toolkit", "sentencepiece", "huggingface_hub")
SOURCE = Path(chatglm.__file__)


def modules_after(code: str) -> set[str]:
    """The top-level modules a fresh interpreter has loaded after running `code`."""
    report = "\nimport sys; sys.stderr.write(' '.join({name.split('.')[0] for name in sys.modules}))"
    result = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(result.stderr.split())


@pytest.mark.parametrize(
    "code",
    [
        "import chatglm",
        "import chatglm; chatglm.Message, chatglm.ChatGLMError, dir(chatglm)",
        "import chatglm.cli; chatglm.cli.build_parser().format_help()",
        "import chatglm.terminal.start",
        "import chatglm.cli; chatglm.cli.main(['cache', 'list'])",
    ],
)
def test_nothing_heavy_is_imported(code):
    assert not modules_after(code) & set(HEAVY)


def test_an_answer_needs_no_transformers():
    loaded = modules_after("import chatglm.cli; chatglm.cli.main(['chat', 'hi', '--greedy'])")
    assert "torch" in loaded
    assert not loaded & {"transformers", "huggingface_hub", "tokenizers", "sympy", "triton"}


def test_every_public_name_can_be_had():
    for name in chatglm.__all__:
        assert getattr(chatglm, name) is not None
        assert name in dir(chatglm)
    assert sorted(chatglm.__all__) == sorted([*chatglm._HOMES, "__version__"])


def test_type_checkers_see_the_same_names():
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: statement.module
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert seen == chatglm._HOMES


def test_an_unknown_name_suggests_a_known_one():
    with pytest.raises(AttributeError, match="no attribute 'ChatGLMConfg'; did you mean 'ChatGLMConfig'"):
        _ = chatglm.ChatGLMConfg
    with pytest.raises(AttributeError, match="no attribute 'zzz'$"):
        _ = chatglm.zzz


def test_tests_have_no_network():
    import socket

    with pytest.raises(OSError, match="without network"):
        socket.create_connection(("example.org", 80), timeout=1)
    with socket.socket() as connection, pytest.raises(OSError, match="without network"):
        connection.connect(("192.0.2.1", 80))


@pytest.mark.parametrize(
    "first",
    [
        *(
            pytest.param(first, marks=pytest.mark.slow)  # torch is imported anew each time
            for first in (
                "from transformers import GlmForCausalLM",  # imports an auto module while it is being loaded
                "import transformers.modeling_layers",
                "import transformers.modeling_utils",
                "from transformers import AutoModel",
            )
        ),
        "import chatglm.model.network",
    ],
)
def test_whatever_is_imported_first_our_classes_are_registered(first: str) -> None:
    check = (
        f"import chatglm; {first}; from transformers import AutoModel; "
        "from chatglm.model.config import ChatGLMConfig; "
        "assert ChatGLMConfig in AutoModel._model_mapping"
    )
    assert modules_after(check) >= {"torch", "transformers"}  # and heavy modules would be seen, further up
