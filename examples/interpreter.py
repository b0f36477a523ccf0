"""Python code in a guest that cannot reach anything outside: files go in and come out, variables stay, limits hold."""

from chatglm.errors import ChatGLMError
from chatglm.sandbox import SandboxConfig, open_sandbox

CELLS = (
    "import csv\nrows = list(csv.DictReader(open('cities.csv')))\nsum(int(row['people']) for row in rows)",
    "largest = max(rows, key=lambda row: int(row['people']))\nopen('largest.txt', 'w').write(largest['city'])",
    "open('/etc/shadow').read()",
    "import socket\nsocket.create_connection(('example.org', 80))",
    "while True: pass",
    "largest['city']",
)

try:
    sandbox = open_sandbox(config=SandboxConfig(wall_seconds=1))
except ChatGLMError as error:  # nothing here can isolate, or IPython is missing: code is not run at all
    print("The code interpreter needs something first.")
    print(error)
    raise SystemExit(0) from None

with sandbox:
    print("isolated by", sandbox.tier)
    sandbox.put("cities.csv", "city,people\n北京,21890000\n成都,20940000\n".encode())
    for code in CELLS:
        result = sandbox.run(code)
        print(f">>> {code.splitlines()[-1]}\n{result.status}: {result.text(300).splitlines()[-1]}")
    print("fetched:", sandbox.get("largest.txt").decode())
    print("cells in the notebook:", len(sandbox.export_notebook()["cells"]))
