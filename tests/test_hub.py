"""Hub names: which hub, which name there, which files; and what is said when there is no connection."""

import sys
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest

from chatglm.errors import HubError, MissingExtraError
from chatglm.hub import choose_hub, hub_name, resolve


class FakeHub:
    """snapshot_download over a list of files; notes what was asked."""

    def __init__(self, root: Path, files: list[str]) -> None:
        self.root, self.files = root, files
        self.asked: list[tuple[str, str | None]] = []

    def snapshot_download(self, name: str, revision: str | None = None, allow_patterns: list[str] | None = None) -> str:
        self.asked.append((name, revision))
        for file in self.files:
            if allow_patterns is None or any(fnmatch(file, pattern) for pattern in allow_patterns):
                (self.root / file).write_text("x")
        return str(self.root)


@pytest.fixture(params=["huggingface", "modelscope"])
def hub(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def install(monkeypatch: pytest.MonkeyPatch, hub: str, fake: FakeHub) -> None:
    if hub == "modelscope":
        monkeypatch.setitem(sys.modules, "modelscope", SimpleNamespace(snapshot_download=fake.snapshot_download))
    else:
        monkeypatch.setattr("huggingface_hub.snapshot_download", fake.snapshot_download)


SMALL = ["config.json", "tokenizer.model", "tokenizer_config.json", "tokenization_chatglm.py"]
FILES = {
    "both formats": (
        ["model.safetensors.index.json", "pytorch_model.bin.index.json", "model-00001-of-00001.safetensors",
         "pytorch_model-00001-of-00001.bin"],
        ["model.safetensors.index.json", "pytorch_model.bin.index.json", "model-00001-of-00001.safetensors"],
    ),
    "bin only": (["pytorch_model.bin"], ["pytorch_model.bin"]),
    "bin shards": (
        ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"],
        ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"],
    ),
    "single safetensors": (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
    "adapter": (["adapter_model.safetensors", "adapter_config.json"],) * 2,
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_one_weight_format_and_no_code_is_fetched(
    kind: str, hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, wanted = FILES[kind]
    fake = FakeHub(tmp_path, [*SMALL, *stored, "modeling_chatglm.py", "quantization.py", "README.md"])
    install(monkeypatch, hub, fake)
    folder = resolve("chatglm3-6b", hub=hub, revision="v1")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*SMALL, *wanted])
    assert set(fake.asked) == {(f"{'THUDM' if hub == 'huggingface' else 'ZhipuAI'}/chatglm3-6b", "v1")}


def test_a_repository_without_weights(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, hub, FakeHub(tmp_path, ["config.json"]))
    with pytest.raises(HubError, match=r"no weights.*config\.json"):
        resolve("someone/else", hub=hub)


def test_folders_need_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATGLM_HUB", "nonsense")
    assert resolve(tmp_path) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert resolve(f"~/{tmp_path.name}") == tmp_path


def test_the_hub_is_an_argument_or_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHATGLM_HUB", raising=False)
    assert choose_hub() == "huggingface"
    monkeypatch.setenv("CHATGLM_HUB", "modelscope")
    assert choose_hub() == "modelscope"
    assert choose_hub("huggingface") == "huggingface"
    monkeypatch.setenv("CHATGLM_HUB", "nonsense")
    with pytest.raises(HubError, match="CHATGLM_HUB is 'nonsense'.*huggingface, modelscope"):
        choose_hub()


def test_names_of_official_models() -> None:
    assert hub_name("chatglm2-6b-int4", "modelscope") == "ZhipuAI/chatglm2-6b-int4"
    assert hub_name("THUDM/chatglm3-6b", "modelscope") == "ZhipuAI/chatglm3-6b"
    assert hub_name("ZhipuAI/chatglm3-6b", "huggingface") == "THUDM/chatglm3-6b"
    assert hub_name("zai-org/chatglm3-6b", "huggingface") == "THUDM/chatglm3-6b"
    assert hub_name("me/chatglm3-6b", "modelscope") == "me/chatglm3-6b"


@pytest.mark.parametrize("name", ["./no/such/folder", "/no/such/folder", "a/b/c", "sp ace/x", "..x", "x/", "a\\b"])
def test_what_is_neither_folder_nor_name(name: str) -> None:
    with pytest.raises(HubError, match="no folder") as caught:
        resolve(name)
    assert repr(name) in str(caught.value)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(HubError, match=r"is a file; give the folder it lies in \(") as caught:
        resolve(tmp_path / "README.md")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_current_folder(name: str) -> None:
    with pytest.raises(HubError, match="must be a folder or a hub name"):
        resolve(name)


def test_offline_says_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("CHATGLM_HUB", raising=False)
    with pytest.raises(HubError) as caught:
        resolve("no-such-owner-xyz/model")
    message = str(caught.value)
    for words in ("no-such-owner-xyz/model", "folder", "CHATGLM_HUB=modelscope", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        assert words in message


def test_errors_of_modelscope_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise RuntimeError("no route to host")

    monkeypatch.setitem(sys.modules, "modelscope", SimpleNamespace(snapshot_download=fail))
    with pytest.raises(HubError, match="ModelScope.*no route to host"):
        resolve("chatglm3-6b", hub="modelscope")


def test_without_modelscope_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(MissingExtraError, match=r"chatglm\[modelscope\]"):
        resolve("chatglm3-6b", hub="modelscope")
