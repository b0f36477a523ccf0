"""Who may import whom: the table of docs/architecture.md, enforced. Imports are read, not run."""

from dataclasses import replace
from pathlib import Path

import pytest
from rooms import (
    ROOT,
    Room,
    Rules,
    cycles,
    file_edges,
    optional_packages,
    read_tree,
    room_edges,
    table_edges,
    violations,
)

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "src" / "chatglm"
PYPROJECT = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Doors are what people enter by. They use the rooms below, never each other; only cli opens the others.
RULES = Rules(
    rooms={
        "errors": Room(optional=False),
        "words": Room(optional=False),
        "listening": Room(may=names("errors")),
        "chat": Room(may=names("errors"), optional=False),
        "tools": Room(
            may=names("chat errors"),
            third_party=names("pydantic jsonschema_rs docstring_parser typing_extensions"),
        ),
        "sandbox": Room(may=names("errors")),
        "native": Room(may=names("errors"), third_party=names("torch")),
        "engine": Room(may=names("errors native"), third_party=names("torch")),
        "quant": Room(may=names("errors native"), third_party=names("torch")),
        "model": Room(
            may=names("chat errors"),
            inside=names("native"),
            third_party=names("torch transformers safetensors sentencepiece jinja2"),
        ),
        "loading": Room(
            may=names("model quant native errors"),
            inside=names("engine"),  # a model's own
            third_party=names("torch transformers safetensors huggingface_hub"),
        ),
        "folders": Room(
            may=names("loading model quant native errors"),
            third_party=names("torch transformers sentencepiece tokenizers"),
        ),
        "registration": Room(inside=names("model quant"), third_party=names("transformers")),
        "agent": Room(may=names("chat tools sandbox engine errors")),
        "official": Room(
            may=names("chat loading errors"),
            inside=names("agent engine quant model"),
            third_party=names("torch transformers"),
        ),
        "demo": Room(
            may=names("chat tools agent engine sandbox model loading errors"),  # its text is what sessions render
            third_party=names("torch transformers safetensors sentencepiece"),
        ),
        ROOT: Room(may=names("registration"), inside=names("errors chat tools engine quant model loading agent")),
        "terminal": Room(
            may=names("chat words errors"),
            inside=names("official model loading engine quant native agent tools sandbox demo") | {ROOT},
            third_party=names("prompt_toolkit rich markdown_it"),
        ),
        "serve": Room(
            may=names("chat errors engine agent loading tools listening"),
            inside=names("model sandbox demo") | {ROOT},
            third_party=names("fastapi starlette pydantic prometheus_client"),
        ),
        "web": Room(
            may=names("chat errors words engine agent tools listening"),
            inside=names("loading sandbox demo") | {ROOT},
            third_party=names("starlette anyio"),  # inside functions: they come with fastapi
        ),
        "train": Room(
            may=names("chat words errors model loading folders"),
            inside=names("quant engine native") | {ROOT},
            third_party=names("torch transformers safetensors"),
        ),
        "evaluate": Room(
            may=names("chat words errors loading model"),
            inside=names("folders engine native quant agent sandbox demo") | {ROOT},
            third_party=names("torch"),
        ),
        "cli": Room(
            may=names("errors"),
            inside=names(
                "chat words model loading folders engine quant agent sandbox demo terminal serve web train evaluate"
            )
            | {ROOT},
        ),
    },
    files={
        **dict.fromkeys(("loading", "bare_loading", "hub", "copies", "memory", "progress", "own_engine"), "loading"),
        "_registration": "registration",
        "__main__": "cli",
    },
    file_inside={
        "model.habits": names("official"),  # the one way back up: the official calls are methods of the model
    },
    file_third_party={
        "quant.hf": names("transformers"),  # the registered quantization config
        "sandbox.guest.shell": names("traitlets"),  # runs in the guest; comes with IPython
        "serve.cluster.ray_router": names("ray"),  # Ray alone imports it, by its name
        "engine.triton_kernels": names("triton"),  # comes with torch where there is a GPU
        "quant.kernels.triton_kernels": names("triton"),
        "quant.kernels.triton_linear": names("triton"),
        "engine.attention": names("transformers"),  # the table attention functions are registered in
        "terminal.doctor": names("torch"),  # tells which cards there are
    },
    optional=optional_packages(PYPROJECT),
)
WAY_BACK = "chatglm.model.habits"  # the official calls are methods of the model
DOORS = names("cli terminal serve web train evaluate")


@pytest.fixture(scope="module")
def real():
    return read_tree(SOURCE)


def test_every_import_is_in_the_table(real):
    assert violations(real, RULES) == []


def test_no_file_reaches_itself(real):
    edges = file_edges(real)
    del edges[WAY_BACK]
    assert cycles(edges) == []


def test_no_room_reaches_itself(real):
    tree = {name: imports for name, imports in real.items() if name != WAY_BACK}
    assert cycles(room_edges(tree, RULES)) == []


def test_the_table_itself_is_one_way():
    without = replace(RULES, file_inside={name: to for name, to in RULES.file_inside.items() if name != "model.habits"})
    assert cycles(table_edges(without)) == []
    for door in DOORS - {"cli"}:
        assert not (RULES.rooms[door].may | RULES.rooms[door].inside) & DOORS, door


def test_the_reader_sees_the_real_tree(real):
    edges = room_edges(real, RULES)
    assert {"chat", "model", "cli", "terminal", ROOT} <= set(edges)
    assert "terminal" in edges["cli"]
    assert "peft" in RULES.optional


# Each rule must be able to fail: small trees that break exactly one of them.

TOY = Rules(
    rooms={
        ROOT: Room(inside=names("high")),
        "low": Room(optional=False),
        "high": Room(may=names("low"), third_party=names("torch")),
        "door": Room(inside=names("high low")),
        "other": Room(),
    },
    files={"alias": "high"},
    file_inside={"high.compat": names("other")},
    file_third_party={"high.hub": names("transformers")},
    optional=names("peft"),
)


@pytest.fixture
def tree(tmp_path):
    def write(files: dict[str, str]):
        for name, text in {"__init__": "", **files}.items():
            path = tmp_path / "chatglm" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return read_tree(tmp_path / "chatglm")

    return write


LEGAL = {
    "high/a": "import json\nimport torch\nfrom chatglm.low import x\n",
    "high/compat": "def f():\n    from chatglm import other\n",
    "high/hub": "import transformers\n",
    "alias": "from chatglm.low import x\n",
    "door": "def f():\n    import peft\n    from chatglm.high import a\n",
    "low": "from typing import TYPE_CHECKING\n",
    "other": "",
    "__init__": "def __getattr__(name):\n    from chatglm import high\n",
}


def test_a_legal_tree_passes(tree):
    assert violations(tree(LEGAL), TOY) == []


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("low", "from chatglm.high import a", "low may not import high"),
        ("low", "def f():\n    from chatglm import high", "low may not import high"),
        ("low", "from . import high", "low may not import high"),
        ("high/a", "from .. import other", "high may not import other"),
        ("high/a", "from ..other import x", "high may not import other"),
        ("high/compat", "from chatglm import other", "high may import other only inside functions"),
        ("door", "import chatglm.high.a", "door may import high only inside functions"),
        ("door", "class C:\n    from chatglm import high", "door may import high only inside functions"),
        ("door", "if 1:\n    from chatglm import high", "door may import high only inside functions"),
        ("low", "import importlib\nimportlib.import_module('chatglm.high')", "low may not import high"),
        ("low", "if TYPE_CHECKING:\n    from chatglm import high", "low may not import high"),
        ("low", "import torch", "low may not import torch"),
        ("low", "def f():\n    import peft", "low may not import peft"),
        ("high/a", "import numpy.linalg", "high may not import numpy"),
        ("high/a", "import transformers", "high may not import transformers"),
        ("door", "try:\n    import peft\nexcept ImportError:\n    pass", "peft comes with an extra"),
        ("new_room", "", "the room 'new_room' is not in the table"),
    ],
)
def test_each_rule_can_fail(tree, file, text, message):
    found = violations(tree({**LEGAL, file: text}), TOY)
    assert len(found) == 1
    assert message in found[0]


def test_type_checking_imports_are_edges_but_do_not_run(tree):
    files = tree({**LEGAL, "door": "if TYPE_CHECKING:\n    from chatglm import high\n    import peft"})
    assert violations(files, TOY) == []
    assert "high" in room_edges(files, TOY)["door"]


@pytest.mark.parametrize(
    "back", ["from .a import x", "def f():\n    from .a import x", "if TYPE_CHECKING:\n    from . import a"]
)
def test_a_file_cycle_is_found_however_it_is_closed(tree, back):
    files = tree({"high/a": "from chatglm.high import b", "high/b": "def f():\n    from . import c", "high/c": back})
    assert cycles(file_edges(files)) == [["chatglm.high.a", "chatglm.high.b", "chatglm.high.c", "chatglm.high.a"]]


def test_a_room_cycle_is_found_even_inside_functions(tree):
    files = tree({"low": "def f():\n    from chatglm import high", "high/a": "from chatglm.low import x"})
    assert cycles(room_edges(files, TOY)) == [["high", "low", "high"]]


def test_optional_packages_are_those_only_an_extra_brings():
    text = """
[project]
dependencies = ["torch>=2", "huggingface_hub[cli]>=1"]
[project.optional-dependencies]
a = ["some-thing>=1 ; python_version > '3'", "torch"]
b = ["chatglm[a]", "PyYAML"]
dev = ["pytest"]
"""
    assert optional_packages(text) == {"some_thing", "yaml"}


def test_files_of_tests_have_names_of_their_own():
    """All of them stand in one place for imports, whatever folder they lie in."""
    names = [path.name for path in (REPOSITORY / "tests").rglob("*.py")]
    doubled = {name for name in names if names.count(name) > 1}
    assert doubled <= {"conftest.py", "__init__.py"}
