"""Schemathesis against a real server: requests made from its description, right and wrong, and answers held to it.

    make fuzz-api [SECONDS=300]
    python tests/serve/fuzz_openapi.py SCHEMATHESIS [--seconds S] [--examples N] [--seed N]

SCHEMATHESIS is the program, in an environment of its own: it needs other versions of libraries than this package does.
The server is `chatglm serve` with every route there is and a key, on a free port of this machine. The model's name is
put into the description that is fuzzed; else every request would be one for a model that is not served.
"""

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from running_server import RunningServer

MODEL = "chatglm-tiny"
# Which requests are right is not told whole by a schema: fields go together, and sizes are the model's.
LEFT_OUT = "positive_data_acceptance"


def pinned(part: Any) -> Any:
    """The description with the model's name in every body that must have one."""
    if isinstance(part, list):
        return [pinned(item) for item in part]
    if not isinstance(part, dict):
        return part
    made = {name: pinned(value) for name, value in part.items()}
    needed, fields = made.get("required"), made.get("properties")
    if isinstance(needed, list) and "model" in needed and isinstance(fields, dict):
        fields["model"] = {"const": MODEL}
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("schemathesis")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--examples", type=int, default=100, help="of a route in a phase at most")
    parser.add_argument("--seed", type=int, help="to see a run again")
    options = parser.parse_args()
    key = secrets.token_hex(8)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "adapters").mkdir()
        server = RunningServer(
            [sys.executable],
            *("--legacy", "--agent", "--tools", "calculator", "--max-conversations", "100000", "--max-tokens", "4"),
            *("--allow-lora", f"{folder}/adapters", "--log-level", "error"),
            environment={"CHATGLM_API_KEYS": key},
        )
        try:
            asked = urllib.request.Request(f"{server.url}/openapi.json", headers={"Authorization": f"Bearer {key}"})
            with urllib.request.urlopen(asked) as answer:
                page = pinned(json.load(answer))

            described = Path(folder) / "openapi.json"
            described.write_text(json.dumps(page), encoding="utf-8")
            command = [options.schemathesis, "run", str(described), "--url", server.url, "--continue-on-failure"]
            command += ["--checks", "all", "--exclude-checks", LEFT_OUT, "--header", f"Authorization: Bearer {key}"]
            command += ["--max-time", str(options.seconds), "--max-examples", str(options.examples), "--no-color"]
            command += [] if options.seed is None else ["--seed", str(options.seed)]
            status = subprocess.run(command, cwd=folder, check=False).returncode
        finally:
            ended = server.end()
        sys.stdout.write("".join(server.log))
        return status or ended


if __name__ == "__main__":
    sys.exit(main())
