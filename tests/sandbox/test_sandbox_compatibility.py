"""What people expect of a notebook works inside the walls."""

import importlib.util
import re

import pytest
from conftest import MiB

from chatglm.sandbox.guest.fonts import FAMILIES, chinese_font

needs = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"needs {name}")
    for name in ("numpy", "pandas", "matplotlib")
}
PLOT = "import matplotlib.pyplot as plt\nplt.figure(figsize=(3, 2))\nplt.plot([1, 2])\nplt.title('{title}')\n"


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("1 + 1", "2"),
        ("x = 5\nx * 2", "10"),
        ("x", "5"),
        ("_", "5"),
        ("'\u4e2d\u6587'", "'\u4e2d\u6587'"),
        ("None", None),
        ("x;", None),
        ("import asyncio\nawait asyncio.sleep(0.01)\n'awaited'", "'awaited'"),
        ("async def f():\n    return 3\nawait f()", "3"),
        ("class A:\n    def __repr__(self): return 'an A'\nA()", "an A"),
        ("import sqlite3\nsqlite3.connect(':memory:').execute('select 6 * 7').fetchone()", "(42,)"),
        ("import os\nos.getcwd(), os.environ['HOME'], os.getuid()", "('/mnt/data', '/tmp', 1000)"),
        ("from concurrent.futures import ThreadPoolExecutor\nlist(ThreadPoolExecutor(4).map(abs, [-1, 2]))", "[1, 2]"),
        ("def double(n): return 2 * n\n"
         "from concurrent.futures import ProcessPoolExecutor as P\nimport multiprocessing as m\n"
         "with P(2, m.get_context('fork')) as p: r = list(p.map(double, [1, 2]))\nr", "[2, 4]"),
        ("import decimal, fractions, statistics, itertools\nstatistics.mean([1, 2, 3])", "2"),
        ("import tempfile\ntempfile.gettempdir()", "'/tmp'"),
        ("import pickle\nclass Thing: pass\npickle.loads(pickle.dumps(Thing())).__class__.__name__", "'Thing'"),
        ("import resource\nresource.getrlimit(resource.RLIMIT_CORE)", "(0, 0)"),
    ],
)  # fmt: skip
def test_cells(sandbox, code, result):
    got = sandbox.run(code)
    assert (got.status, got.result) == ("ok", result), got.text()


def test_errors_show_where_and_what(sandbox):
    error = sandbox.run("def divide(a):\n    return a / 0\n\ndivide(1)").error
    assert "ZeroDivisionError: division by zero" in error
    assert "line 2" in error
    assert "return a / 0" in error
    assert "sandbox_guest" not in error
    assert "SyntaxError" in sandbox.run("1 +").error


def test_outputs_come_in_the_order_of_the_code(sandbox):
    code = """
import os, subprocess, sys
from IPython.display import display
print("1 print")
os.system("echo 2 child")
print("3 error", file=sys.stderr)
subprocess.run(["sh", "-c", "echo 4 child; echo 5 child >&2"])
display("6 display")
os.write(1, b"7 raw\\n")
!echo 8 shell
sys.__stdout__.write("9 real stream\\n"); sys.__stdout__.flush()
"10 result"
"""
    for _ in range(5):
        result = sandbox.run(code)
        text = "".join(output.text + "\n" for output in result.outputs)
        assert [
            int(n) for n in re.findall(r"\d+(?= (?:print|child|error|display|raw|shell|real|result))", text)
        ] == list(range(1, 11))


def test_magics(sandbox):
    assert "Wall time" in sandbox.run("%time sum(range(100))").stdout
    assert "loop" in sandbox.run("%timeit -n 2 -r 2 1 + 1").stdout
    assert [file.name for file in sandbox.run("%%writefile note.txt\nhello").files] == ["note.txt"]
    assert sandbox.run("!cat note.txt").stdout.strip() == "hello"
    assert sandbox.run("files = !ls /mnt/data\n'note.txt' in files").result == "True"
    assert sandbox.run("%%bash\necho from bash").stdout == "from bash\n"
    assert sandbox.run("%cd /tmp").status == "ok"
    sandbox.run("%cd /mnt/data")
    sandbox.run("import os; os.unlink('note.txt')")


def test_what_a_notebook_cannot_do_here_is_said_at_once(sandbox):
    for code, words in (
        ("%pdb on", "debugger"), ("%debug", "debugger"), ("breakpoint()", "debugger"), ("!sleep 9 &", "background"),
    ):  # fmt: skip
        result = sandbox.run(code, timeout=5)
        assert words in result.error
        assert result.seconds < 3
    sandbox.run("!exit 3")
    assert sandbox.run("_exit_code").result == "3"
    assert sandbox.run("import os; os.environ['PIP_NO_INDEX']").result == "'1'"  # pip would try for ten seconds


def test_chinese_everywhere(sandbox):
    sandbox.put("\u6570\u636e.csv", "\u57ce\u5e02,\u4eba\u53e3\n\u5317\u4eac,2189\n".encode())
    result = sandbox.run(
        "text = open('\u6570\u636e.csv').read()\nprint(text)\n"
        "open('\u7ed3\u679c.txt', 'w').write(text)\n\u53d8\u91cf = 1"
    )
    assert result.stdout == "\u57ce\u5e02,\u4eba\u53e3\n\u5317\u4eac,2189\n\n"
    assert [file.name for file in result.files] == ["\u7ed3\u679c.txt"]
    assert "\u5317\u4eac" in sandbox.get("\u7ed3\u679c.txt").decode()


@needs["numpy"]
def test_numpy(sandbox):
    assert sandbox.run("import numpy as np\nfloat(np.linalg.det(np.eye(200)))").result == "1.0"
    assert sandbox.run("np.arange(3) @ np.arange(3)").result in ("5", "np.int64(5)")


@needs["pandas"]
def test_pandas(sandbox):
    sandbox.put("table.csv", b"a,b\n1,2\n3,4\n")
    result = sandbox.run("import pandas as pd\npd.read_csv('table.csv').sum()")
    assert re.search(r"a +4\nb +6", result.result), result.text()


@needs["matplotlib"]
def test_plots(sandbox):
    result = sandbox.run(PLOT.format(title="title"))
    assert [image.mime for image in result.images] == ["image/png"]
    assert result.images[0].width > 100
    assert "Figure" in result.text()
    result = sandbox.run(PLOT.format(title="a") + "plt.savefig('plot.png')\nplt.show()\nprint('after')")
    assert [output.kind for output in result.outputs] == ["display", "stdout"]
    assert [file.name for file in result.files] == ["plot.png"]
    assert sandbox.get("plot.png").startswith(b"\x89PNG")


@needs["matplotlib"]
def test_chinese_labels_are_drawn_or_their_absence_is_said(sandbox):
    result = sandbox.run(PLOT.format(title="\u4e2d\u6587\u6807\u9898"))
    fonts = sandbox.run("import matplotlib\nmatplotlib.rcParams['font.family']").result
    said = any("no font here has them" in notice for notice in result.notices)
    assert said != any(family in fonts for family in FAMILIES)


def test_the_best_chinese_font_is_chosen():
    assert chinese_font(["DejaVu Sans", "SimHei", "Noto Sans CJK SC"]) == "Noto Sans CJK SC"
    assert chinese_font(["DejaVu Sans"]) is None


def test_a_guest_is_small(fresh):
    from chatglm.sandbox import processes

    fresh.run("1")
    used = sum(
        processes.proportional(process.pid) or process.resident for process in processes.below(fresh._guest.root)
    )
    assert used < 40 * MiB
