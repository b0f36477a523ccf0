"""A program that the fixture `python` runs sees and does what it would with `python`, and ends the same way."""

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import os, sys, threading, time
print(sys.argv[1:], __name__, os.getcwd(), sorted(os.environ), input(), sys.stdout.isatty(), "chatglm" in sys.modules)
sys.stderr.write("before the end\\n")
threading.Thread(target=lambda: (time.sleep(0.1), print("a thread is waited for"))).start()
"""
ENDS = """pass | sys.exit(3) | sys.exit(False) | sys.exit("bye") | raise ValueError("x") | raise KeyboardInterrupt
os.kill(os.getpid(), 9) | os.kill(os.getpid(), 15) | sys.stdout.flush(); os._exit(7)""".replace("\n", " | ").split(
    " | "
)


def ran(command, folder):
    environment = {**os.environ, "GIVEN": "北京"}
    done = subprocess.run(command, input="哦\n", capture_output=True, encoding="utf-8", cwd=folder, env=environment)
    return done.returncode, done.stdout, done.stderr.splitlines()[:1], done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("kind", "end"), [*(("file", end) for end in ENDS), ("-m", ENDS[0]), ("-c", ENDS[0])])
def test_everything_is_as_with_python(kind, end, python, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM + end)
    command = {"file": ["program.py"], "-m": ["-m", "program"], "-c": ["-c", PROGRAM + end]}[kind]
    warm, fresh = (ran([*start, *command, "a", "b c"], tmp_path) for start in (python, [sys.executable]))
    assert warm == fresh


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is warm here")
def test_it_is_warm(python):
    code = "import sys; print({'torch', 'transformers', 'chatglm'} & {*sys.modules} == {'torch', 'transformers'})"
    assert subprocess.run([*python, "-c", code], capture_output=True, text=True).stdout == "True\n"


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is warm here")
def test_what_python_reads_when_it_starts_is_refused(python):
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    done = subprocess.run([*python, "-c", "pass"], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "PYTHONHASHSEED is read when Python starts" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_program(number, python):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(100)"
    with subprocess.Popen([*python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        program = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(30) == -number
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(program, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError("the program still runs")
