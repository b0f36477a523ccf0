"""The programs in docs/tools.md and docs/agents.md run, and the example of a configuration can be read."""

import re
import runpy
from pathlib import Path

import pytest

from chatglm.agent.trace import read_trace
from chatglm.errors import SandboxError
from chatglm.sandbox import open_sandbox
from chatglm.tools.mcp_config import read_mcp_file

REPOSITORY = Path(__file__).resolve().parents[2]


def programs(page):
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return "\n".join(block for block in blocks if not block.startswith("# needs"))


def test_the_programs_about_tools(tmp_path, capsys):
    program = tmp_path / "program.py"
    program.write_text(programs("tools.md"), encoding="utf-8")
    runpy.run_path(str(program))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == '{"city": "北京", "temperature": 22, "unit": "celsius", "days": 2}'
    assert lines[3].startswith("Error: wrong arguments for get_weather: city is missing; town is not known")
    assert lines[-2:] == ["341.333333333333", "['calculator', 'current_time']"]


@pytest.mark.slow
def test_the_programs_about_sessions(tmp_path, capsys, monkeypatch):
    """With the embedded model in the place of the large one."""
    try:
        open_sandbox().close()
    except SandboxError as error:
        pytest.skip(f"no sandbox here: {error}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numbers.csv").write_text("1,2,3\n")
    program = tmp_path / "program.py"
    program.write_text(programs("agents.md").replace('"THUDM/chatglm3-6b"', ""), encoding="utf-8")
    runpy.run_path(str(program))
    assert "TurnDone(reason='stop'" in capsys.readouterr().out
    assert [record["kind"] for record in read_trace(tmp_path / "trace.jsonl")][:1] == ["task"]


def test_the_example_of_servers(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert [server.name for server in read_mcp_file(REPOSITORY / "examples" / "mcp.json")] == ["files", "time"]
