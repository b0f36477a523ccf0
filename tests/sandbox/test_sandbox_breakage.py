"""Whatever code does to its own interpreter, the next cell works: in the same guest, or in a fresh one that says so."""

import pytest

IP = "ip = get_ipython()\n"
BREAKAGES = {
    "the-shell": IP + "ip.run_cell = None; ip.events = None",
    "run-cell-that-does-nothing": IP + "ip.run_cell = lambda *a, **k: None",
    "run-cell-that-pretends": IP + "class R: success = True\nip.run_cell = lambda *a, **k: R()",
    "run-cell-of-the-class": IP + "type(ip).run_cell = None",
    "run-code": IP + "ip.run_code = None",
    "run-code-of-the-class": IP + "del type(ip).run_code",
    "another-class": IP + "class C(type(ip)):\n    def run_cell(self, *a, **k): 1 / 0\nip.__class__ = C",
    "no-attributes": IP + "vars(ip).clear()",
    "no-traits": IP + "ip._trait_values.clear()",
    "no-events": IP + "ip.events = None",
    "no-callbacks": IP + "ip.events.callbacks.clear()",
    "trigger": IP + "ip.events.trigger = None",
    "callback-that-leaves": IP + "def leave(*a): raise SystemExit\nip.events.register('pre_execute', leave)",
    "callback-that-fails": IP + "def fail(*a): raise ValueError\nip.events.register('post_run_cell', fail)",
    "no-history": IP + "ip.history_manager = None",
    "history": IP + "ip.history_manager.store_inputs = None",
    "history-of-the-class": IP + "type(ip.history_manager).store_inputs = None",
    "compiler": IP + "ip.compile = None",
    "compiler-of-the-class": IP + "type(ip.compile).ast_parse = None",
    "displayhook": IP + "ip.displayhook = None",
    "displayhook-of-the-class": IP + "type(ip.displayhook).__call__ = lambda *a: None",
    "results-swallowed": IP + "ip.displayhook.write_format_data = lambda *a, **k: None",
    "formatter": IP + "ip.display_formatter = None",
    "no-formatters": IP + "ip.display_formatter.formatters.clear()",
    "errors-swallowed": IP + "ip.showtraceback = lambda *a, **k: None",
    "errors-broken": IP + "ip._showtraceback = None",
    "traceback-maker": IP + "ip.InteractiveTB = None",
    "transformers": IP + "ip.input_transformer_manager = None",
    "transformer-that-fails": IP + "ip.input_transformers_post.append(lambda lines: 1 / 0)",
    "transformer-that-swallows": IP + "ip.input_transformers_post.append(lambda lines: [])",
    "ast-transformer": IP + "ip.ast_transformers.append(None)",
    "loop-runner": IP + "ip.loop_runner = None",
    "module-of-the-shell": "import IPython.core.interactiveshell as m\nm.ast = m.sys = None",
    "module-emptied": "import IPython.core.interactiveshell as m\nvars(m).clear()",
    "traps": IP + "ip.builtin_trap = ip.display_trap = None",
    "variables-gone": "globals().clear()",
    "outputs-no-dictionary": "_oh = Out = 5",
    "namespace": IP + "ip.user_ns = None",
    "module-of-the-variables": IP + "ip.user_module = None",
    "reset": "%reset -f",
    "stream": "import sys\nsys.stdout.write = None",
    "stream-swallowed": "import sys\ntype(sys.stdout).write = lambda self, text: len(text)",
    "stream-flush": "import sys\nsys.stderr.flush = None",
    "channel": "import sys\nsys.modules['sandbox_guest.channel'].Channel.send = None",
    "channel-swallows": "import sys\nsys.modules['sandbox_guest.channel'].Channel.send = lambda *a: None",
    "channel-receives-nothing": "import sys\nsys.modules['sandbox_guest.channel'].Channel.receive = None",
    "channel-receives-nonsense": (
        "import sys\nsys.modules['sandbox_guest.channel'].Channel.receive = lambda self: {'op': 'run', 'id': 7, "
        "'code': '', 'token': ''}"
    ),
    "channel-leads-nowhere": (
        "import os, stat\nkeep = os.pipe()\nfor fd in range(3, 128):\n    try:\n"
        "        if stat.S_ISSOCK(os.fstat(fd).st_mode): os.dup2(keep[0], fd)\n    except OSError: pass"
    ),
    "guest-modules": (
        "import sys\nfor name in [n for n in sys.modules if n.startswith('sandbox_guest')]:\n"
        "    vars(sys.modules[name]).clear(); del sys.modules[name]"
    ),
    "repair": "import sys\nsys.modules['sandbox_guest.repair'].Repair.__call__ = None",
    "signal-function": "import signal\nsignal.signal = signal.pthread_sigmask = None",
    "json": "import json\njson.loads = json.dumps = None",
    "json-decoder": "import json\njson._default_decoder = None\njson.decoder.JSONDecoder.decode = None",
    "threading": "import threading\nthreading.current_thread = None",
    "time": "import time\ntime.monotonic = time.sleep = None",
    "os-module": "import os\nfor name in list(vars(os)):\n    if not name.startswith('_'): delattr(os, name)",
    "sys-modules-replaced": "import sys\nsys.modules = {}",
    "sys-path-gone": "import sys\nsys.path = None",
    "sys-path-emptied": "import sys\nsys.path.clear(); sys.path_hooks.clear(); sys.path_importer_cache.clear()",
    "meta-path-gone": "import sys\nsys.meta_path = None",
    "sys-emptied": "import sys\nvars(sys).clear()",
    "builtins-emptied": "import builtins\nvars(builtins).clear()",
    "builtins-lying": "import builtins\nbuiltins.isinstance = lambda *a: False\nbuiltins.len = lambda x: 0",
    "print-gone": "import builtins\nbuiltins.print = None",
    "import-that-fails": "import builtins\ndef no(*a, **k): raise ImportError\nbuiltins.__import__ = no",
    "all-dictionaries": "import gc\nfor o in gc.get_objects():\n    if type(o) is dict: o.clear()",
    "frozen": "import gc\ngc.freeze(); gc.disable(); gc.set_threshold(0)",
    "tracing": "import sys, threading\ndef t(*a): raise ValueError\nthreading.settrace(t); sys.settrace(t)",
    "switch-interval": "import sys\nsys.setswitchinterval(1e6)",
    "handlers": "import signal as s\nfor n in range(1, 64):\n    try: s.signal(n, s.SIG_IGN)\n    except OSError: 0",
    "mask": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))",
    "umask": "import os\nos.umask(0o777)",
    "folder-gone": "import os\nos.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')",
    "environment-gone": "import os\nos.environ.clear()",
    "no-descriptors": "import os\nheld = []\nwhile True: held.append(os.open('/dev/null', 0))",
    "descriptors-forbidden": "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))",
    "soft-limit": "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (0, 128))",
    "files-forbidden": "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))",
    "no-threads": (
        "import threading\nstop = threading.Event()\ntry:\n"
        "    while True: threading.Thread(target=stop.wait, daemon=True).start()\nexcept RuntimeError: pass"
    ),
    "no-memory": (
        "held, size = [], 1 << 30\nwhile size > 4096:\n    try: held.append(bytearray(size))\n"
        "    except MemoryError: size >>= 1"
    ),
    "exit-in-a-thread": "import os, threading\nthreading.Thread(target=os._exit, args=(3,)).start()",
    "exit-in-a-thread-later": "import os, threading\nthreading.Timer(0.05, os._exit, (3,)).start()",
    "break-in-a-thread-later": IP + "import threading\nthreading.Timer(0.02, setattr, (ip, 'run_cell', None)).start()",
    "exit-at-a-signal": "import os, signal\nsignal.signal(14, lambda *a: os._exit(1)); signal.setitimer(0, 0.02)",
    "audit-hook": "import sys\ndef no(*a): raise RuntimeError('no')\nsys.addaudithook(no)",
    "exit-hooks": "import atexit, os\natexit.register(os._exit, 1)\nraise SystemExit",
    "excepthook": "import sys\nsys.excepthook = sys.unraisablehook = sys.displayhook = None",
    "tracebacks": "import linecache, traceback\ntraceback.format_exc = linecache.checkcache = None",
    "warnings": "import warnings\nwarnings.warn = None; warnings.simplefilter('error')",
}  # fmt: skip


# Each of these ends like another that stays in the default run.
SLOW = """
run-cell-that-does-nothing run-cell-of-the-class run-code run-code-of-the-class no-traits no-events trigger history
compiler compiler-of-the-class displayhook-of-the-class formatter no-formatters errors-broken traceback-maker
transformers
transformer-that-swallows loop-runner module-of-the-shell traps module-of-the-variables stream stream-flush
channel-receives-nothing channel-leads-nowhere repair json-decoder threading time sys-path-gone meta-path-gone
builtins-emptied print-gone tracing mask soft-limit files-forbidden exit-in-a-thread-later excepthook tracebacks
no-attributes no-callbacks callback-that-leaves no-history displayhook errors-swallowed module-emptied channel json
outputs-no-dictionary signal-function sys-emptied descriptors-forbidden
""".split()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in BREAKAGES]
)
def test_the_next_cell_works_or_a_fresh_guest_does(shared, name):
    """Its text, its value and its error are seen, a loop is ended, and lost variables are said to be lost."""
    shared.run("kept = 41")
    broken = shared.run(BREAKAGES[name], timeout=1)
    if name.endswith("later"):  # it comes to it in the middle of another cell
        broken = shared.run("import time\ntime.sleep(0.3)")
    following = shared.run("print('works')\n6 * 7")
    assert (following.status, following.result) == ("ok", "42"), (broken, following)
    assert "works\n" in following.stdout, (broken, following)
    kept = shared.run("kept")
    told = " ".join([broken.reason or "", *following.notices, *kept.notices])
    cleared = name in ("variables-gone", "reset", "namespace", "module-of-the-variables")
    assert cleared or kept.result == "41" or "variables are lost" in told, (broken, following)
    assert name != "channel-receives-nonsense" or "nobody asked" in told  # and not that it was out of time
    assert "ZeroDivisionError" in (shared.run("1 / 0").error or "")
    assert shared.run("import csv, bisect\nopen('note', 'w').write('text')").result == "4"
    assert shared.run("while True: pass", timeout=0.1).status == "timeout"


def test_the_reason_says_what_was_broken(sandbox):
    result = sandbox.run(BREAKAGES["the-shell"])
    assert result.status == "killed"
    assert result.reason.startswith("broken: "), result.reason
    assert "fresh interpreter" in result.reason


def test_a_cell_that_never_began_is_run_in_a_fresh_guest(sandbox):
    """Its own cell ends whole, and the next cannot even be read: it has done nothing yet."""
    assert sandbox.run("mark = 1\n" + BREAKAGES["channel-receives-nothing"]).status == "ok"
    result = sandbox.run("print('mark' in globals())")
    assert (result.status, result.stdout) == ("ok", "False\n")
    assert "variables are lost" in result.notices[0]


def test_plots_come_again_after_their_hooks_were_broken(sandbox):
    for code in (
        "get_ipython().display_pub = None", "get_ipython().display_pub.publish = None",
        "get_ipython().events.callbacks['post_execute'].clear()",
    ):  # fmt: skip
        sandbox.run("import matplotlib.pyplot as plt\nplt.plot([1, 2])")
        sandbox.run(code)
        assert len(sandbox.run("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()").images) == 1, code


def test_the_check_of_a_cell_leaves_no_trace(sandbox):
    """What a cell can see is as if only the cells had run."""
    sandbox.restart()
    sandbox.run("calls = []\nfor event in ('pre_run_cell', 'post_run_cell', 'pre_execute'):\n"
                "    get_ipython().events.register(event, lambda *a: calls.append(0))")  # fmt: skip
    assert sandbox.run("6 * 7").result == "42"
    assert sandbox.run("1 / 0").status == "error"
    assert "ZeroDivisionError" in sandbox.run("%tb").text()
    assert sandbox.run("_, Out, len(In), len(calls)").result == "(42, {2: 42}, 6, 12)"
    assert sandbox.run("[name for name in dir() if name[:2] in ('_-', '_n')]").result == "[]"
    assert sandbox.run("get_ipython().execution_count").result == "8"
