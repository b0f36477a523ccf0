"""The programs in docs/tools.md run, one after the other, and its example of a configuration can be read."""

import re
import runpy
from pathlib import Path

from chatglm.agent.mcp_config import read_mcp_file

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_programs_of_the_page(tmp_path, capsys):
    text = (REPOSITORY / "docs" / "tools.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    program = tmp_path / "program.py"
    program.write_text("\n".join(block for block in blocks if not block.startswith("# needs")), encoding="utf-8")
    runpy.run_path(str(program))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == '{"city": "北京", "temperature": 22, "unit": "celsius", "days": 2}'
    assert lines[3].startswith("Error: wrong arguments for get_weather: city is missing; town is not known")
    assert lines[-1] == "341.333333333333"


def test_the_example_of_servers(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert [server.name for server in read_mcp_file(REPOSITORY / "examples" / "mcp.json")] == ["files", "time"]
