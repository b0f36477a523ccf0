"""What a hostile guest sends: forged and broken frames, text that steers, false pictures, too much of anything."""

import base64
import json
import struct
from contextlib import suppress

import pytest
from conftest import SMALL
from hypothesis import given
from hypothesis import strategies as st

from chatglm.sandbox.frames import MAX_FRAME, FrameReader, GuestLost, encode
from chatglm.sandbox.result import Output, Result, shorten
from chatglm.sandbox.text import Transcript, clean, png_or_jpeg

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 3, 2, 8, 2, 0, 0, 0) + bytes(4)
FIND_CHANNEL = """
import json, os, struct
def speak(data):
    for fd in map(int, os.listdir('/proc/self/fd')):
        try:
            if os.readlink(f'/proc/self/fd/{fd}').startswith('socket:'):
                os.write(fd, data)
        except OSError:
            pass
def frame(value):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack('>I', len(data)) + data
"""
FORGED = {
    "early-end": "speak(frame({'t': 'done', 'id': NUMBER, 'ok': True, 'repaired': []}))\nimport time; time.sleep(0.1)",
    "many-ends": "speak(frame({'t': 'done', 'id': NUMBER, 'ok': True, 'repaired': ['x' * 999] * 9}) * 10)",
    "many-empty-results": "speak(frame({'t': 'result', 'data': {'text/plain': ''}}) * 1000)",
    "replayed-end": "speak(frame({'t': 'done', 'id': 1, 'ok': True}))",
    "end-of-the-future": "speak(frame({'t': 'done', 'id': 10**9, 'ok': True}))",
    "end-with-a-list": "speak(frame({'t': 'done', 'id': [1], 'ok': True}))",
    "ready-again": "speak(frame({'t': 'ready'}))",
    "unknown-kind": "speak(frame({'t': 'x' * 1000}))",
    "no-kind": "speak(frame({}))",
    "no-object": "speak(frame([1, 2]))",
    "garbage": "speak(os.urandom(100000))",
    "giant-length": "speak(b'\\xff\\xff\\xff\\xff')",
    "half-a-frame": "speak(struct.pack('>I', 1000) + b'{')",
    "nested": "speak(frame(b'[' * 100000))",
    "huge-number": "speak(frame(b'{\"t\": \"done\", \"id\": ' + b'9' * 100000 + b'}'))",
    "not-unicode": 'speak(frame(b\'{"t": "\\xff"}\'))',
    "pickle": "import pickle; speak(frame(pickle.dumps({'t': 'done'})))",
    "text-of-wrong-type": "speak(frame({'t': 'stream', 'name': 'stdout', 'text': {'a': 1}}))",
    "data-of-wrong-type": "speak(frame({'t': 'result', 'data': [1]}))",
    "value-of-wrong-type": "speak(frame({'t': 'display', 'data': {'text/plain': 5}}))",
    "image-of-wrong-type": "speak(frame({'t': 'display', 'data': {'image/png': None}}))",
    "image-that-is-no-base64": "speak(frame({'t': 'display', 'data': {'image/png': '\\u6587!!'}}))",
    "repairs-of-wrong-type": "speak(frame({'t': 'done', 'id': NUMBER, 'ok': 1, 'repaired': {'a': 1}}))",
    "nan": "speak(frame({'t': 'stream', 'text': 'x', 'name': float('nan')}))",
    "read-the-channel": (
        "import select\nfor fd in map(int, os.listdir('/proc/self/fd')):\n"
        "    if os.path.exists(f'/proc/self/fd/{fd}') and os.readlink(f'/proc/self/fd/{fd}').startswith('socket:'):\n"
        "        os.set_blocking(fd, False)\n        try: os.read(fd, 10)\n        except OSError: pass\n"
        "        os.set_blocking(fd, True)"
    ),
    "close-the-channel": (
        "for fd in map(int, os.listdir('/proc/self/fd')):\n    try:\n"
        "        if os.readlink(f'/proc/self/fd/{fd}').startswith('socket:'): os.close(fd)\n    except OSError: pass"
    ),
}


QUICK = ("early-end", "many-ends", "many-empty-results", "garbage", "text-of-wrong-type", "close-the-channel")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FORGED]
)
def test_forged_frames_hurt_nobody(shared, name):
    number = shared._number + 1
    result = shared.run(FIND_CHANNEL + FORGED[name].replace("NUMBER", str(number)), timeout=0.4)
    assert result.status in ("ok", "error", "killed", "timeout")
    assert len(result.notices) < 5
    if result.status == "killed":
        assert result.reason.split(":")[0] in ("protocol", "crash", "timeout", "output", "broken"), result.reason
    following = [shared.run("print('works')"), shared.run("print('works')")]
    assert following[-1].stdout.endswith("works\n"), following
    assert following[-1].status == "ok"


def test_a_forked_child_cannot_answer_in_the_parents_place(sandbox):
    """Trap: a child that comes back from the cell would read the next request and answer it."""
    sandbox.run("import os\npid = os.fork()")
    assert sandbox.run("os.waitpid(pid, 0)[1]").result == "0"  # only the parent is asked: the child has ended
    assert sandbox.run("2 + 2").result == "4"


def test_steering_text_is_cleaned(sandbox):
    hostile = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b1A \x00 \u202eright \ufeff "
    hostile += "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ end"
    for code in (
        f"print({hostile!r})",
        f"raise ValueError({hostile!r})",
        f"from IPython.display import display\ndisplay({hostile!r})",
    ):
        text = sandbox.run(code).text()
        assert not any(character in text for character in "\x1b\x9b\x00\u202e\ufeff\x07")
    assert "red" in sandbox.run(f"print({hostile!r})").stdout


def test_escapes_split_over_writes_are_removed(sandbox):
    result = sandbox.run("import sys\nfor c in '\\x1b[31mred\\x1b[0m': sys.stdout.write(c); sys.stdout.flush()")
    assert result.stdout == "red"


def test_progress_bars_show_their_last_state(sandbox):
    assert sandbox.run("for n in range(101): print(f'{n}%', end='\\r')\nprint('100%')").stdout == "100%\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("进度\r", "进度"),
        ("进度\r\n", "进度\n"),
        ("50%\r100%\r", "100%"),
        ("50%\r\r\r", "50%"),
        ("50%\r\x1b[0m", "50%"),
        ("50%\r\x00\u200b", "50%"),
        ("loading 50%\r\x1b[Kdone\n", "done\n"),
        ("loading 50%\x1b[2K\rdone", "done"),
        ("bar\r   \r", ""),
        ("abc\rX", "Xbc"),
        ("10%\b\b\b20%\b\b\b", "20%"),
        ("|\b/\b-\b", "-"),
        ("word\b\b", "word"),
        ("\b\b\rword", "word"),
        ("one\ntwo\rTWO\nthree\r", "one\nTWO\nthree"),
        ("\x1b[1A\x1b[31mred\x1b[0m\r", "red"),
        ("x\x01y\x02z", "xyz"),
    ],
)
def test_a_line_that_writes_over_itself_keeps_what_stood_last(text, shown):
    assert clean(text) == shown


@given(st.text(), st.text(alphabet="\r\b\n", max_size=6))
def test_going_back_alone_loses_no_word(text, moves):
    word = clean(text).replace("\n", "").strip()
    assert word in clean(word + moves)


def test_what_stays_on_its_line_is_shown(sandbox):
    assert sandbox.run("print('进度', end='\\r')").text() == "进度"
    assert sandbox.run("print('no end', end='')").text() == "no end"
    assert sandbox.run("import sys\nsys.stderr.write('\\rhalf')").stderr == "half"
    bar = sandbox.run("import sys\nfrom tqdm import tqdm\nfor n in tqdm(range(3), file=sys.stdout): pass")
    assert "100%" in bar.text() or "No module named 'tqdm'" in bar.text()


def test_both_streams_keep_the_order_of_the_code(sandbox):
    code = "import sys\nfor n in range(3):\n    sys.stdout.write(f'out{n} ')\n    sys.stderr.write(f'err{n} ')"
    outputs = sandbox.run(code).outputs
    assert "".join(output.text for output in outputs if output.kind != "result") == "out0 err0 out1 err1 out2 err2 "


@pytest.mark.parametrize(
    "code",
    [
        "while True: print('x' * 1000)",
        "import os\nwhile True: os.write(1, b'x' * 65536)",
        pytest.param("import subprocess\nsubprocess.run(['yes'])", marks=pytest.mark.slow),
        pytest.param("print('x' * (50 << 20))", marks=pytest.mark.slow),
        pytest.param("from IPython.display import display\nwhile True: display('x' * 100000)", marks=pytest.mark.slow),
        pytest.param(
            "import sys\nwhile True: sys.stderr.write('')or sys.stderr.write('y' * 9000)", marks=pytest.mark.slow
        ),
    ],
)
def test_endless_output_is_bounded(sandbox, code):
    result = sandbox.run(code, timeout=5)
    assert (result.status, result.reason.split(":")[0]) == ("killed", "output"), result.text()[:500]
    assert sum(len(output.text) for output in result.outputs) <= SMALL.output_chars + 200


def test_large_output_keeps_beginning_and_end(sandbox):
    result = sandbox.run("print('first'); print('x' * 1_000_000); print('last')")
    assert result.stdout.startswith("first")
    assert result.stdout.endswith("last\n")
    assert "characters left out" in result.stdout
    result = sandbox.run("'y' * 1_000_000")
    assert len(result.result) < SMALL.output_chars + 200


def test_images_are_bounded_and_counted(sandbox):
    code = f"from IPython.display import Image, display\nfor _ in range(6): display(Image(data={PNG!r}, format='png'))"
    result = sandbox.run(code)
    assert [(image.mime, image.width, image.height) for image in result.images] == [
        ("image/png", 3, 2)
    ] * SMALL.num_images
    assert [notice for notice in result.notices if "at most 3 images" in notice] == [
        "3 images were left out: at most 3 images per cell are kept"
    ]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"<svg onload=alert(1)>", "no PNG or JPEG"),
        (PNG[:20], "no PNG or JPEG"),
        (PNG[:16] + struct.pack(">II", 60000, 60000) + PNG[24:], "pixels"),
        (PNG + bytes(6 << 20), "bytes"),
    ],
)
def test_pictures_that_are_none_or_too_large_are_left_out(sandbox, data, problem):
    encoded = base64.b64encode(data[:100]).decode()
    code = "import base64\nfrom IPython.display import display\n"
    code += f"d = base64.b64decode({encoded!r}) + bytes({max(0, len(data) - 100)})\n"
    result = sandbox.run(code + "display({'image/png': base64.b64encode(d).decode(), 'text/plain': 'p'}, raw=True)")
    assert result.images == ()
    assert problem in result.notices[0]


def test_markup_comes_as_text_and_only_where_there_is_no_other(sandbox):
    assert sandbox.run("from IPython.display import HTML\nHTML('<b>bold</b>')").result == "<b>bold</b>"
    result = sandbox.run(
        "class Both:\n    def _repr_html_(self): return '<script>'\n    def __repr__(self): return 'plain'\nBoth()"
    )
    assert result.result == "plain"


@given(st.text())
def test_cleaning_is_idempotent_and_always_encodes(text):
    once = clean(text)
    assert clean(once) == once
    once.encode("utf-8")
    assert not set(once) & set("\x00\x07\x1b\x7f\x9b\u202e\u2066\ufeff")


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "Zs"]) | st.sampled_from("\n\t")))
def test_cleaning_leaves_ordinary_text_alone(text):
    assert clean(text) == text


@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr", "result"]), st.text(max_size=30)), max_size=30),
    st.integers(2, 60),
)
def test_a_transcript_keeps_order_beginning_and_end(pieces, limit):
    transcript = Transcript(limit)
    for kind, text in pieces:
        transcript.add(kind, text)
    whole = clean("".join(text for _, text in pieces))
    kept = "".join(output.text for output in transcript.outputs())
    if transcript._lost:
        assert sum(len(text) for _, text in pieces) - transcript._lost <= limit
        assert "left out" in kept
    elif all(kind == "stdout" for kind, _ in pieces):
        assert kept == whole
    assert len(kept) <= limit + 60


def test_a_flood_of_empty_outputs_is_bounded():
    transcript = Transcript(100)
    for _ in range(1000):
        transcript.add("result", "")
    assert len(transcript.outputs()) <= 101


def test_pictures_survive_when_the_text_around_them_is_cut():
    transcript, image = Transcript(20), png_or_jpeg(PNG)
    for _ in range(5):
        transcript.add("stdout", "x" * 50)
        transcript.add("display", "figure", image)
    assert sum(output.image is not None for output in transcript.outputs()) == 5


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_a_loss(data):
    reader = FrameReader()
    with suppress(GuestLost):  # and nothing else
        assert all(isinstance(frame, dict) for frame in reader.feed(data))


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(), max_size=4), max_size=5),
    st.integers(1, 7),
)
def test_frames_survive_any_cutting(frames, size):
    data, reader, found = b"".join(map(encode, frames)), FrameReader(), []
    for start in range(0, len(data), size):
        found += reader.feed(data[start : start + size])
    assert found == frames


def test_a_frame_that_announces_too_much_is_refused_before_it_is_read():
    with pytest.raises(GuestLost, match="at most"):
        FrameReader().feed(struct.pack(">I", MAX_FRAME + 1))
    with pytest.raises(GuestLost, match="not JSON"):
        FrameReader().feed(struct.pack(">I", 200_000) + b"[" * 200_000)


def test_jpeg_sizes_are_read():
    jpeg = b"\xff\xd8\xff\xe0\x00\x04AB" + b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 20, 30) + bytes(12)
    assert (png_or_jpeg(jpeg).width, png_or_jpeg(jpeg).height) == (30, 20)
    assert png_or_jpeg(b"\xff\xd8\xff\xe0\x00\x00" + bytes(20)) is None
    assert png_or_jpeg(json.dumps({}).encode()) is None


def test_what_the_model_is_shown():
    result = Result(
        "killed",
        (Output("stdout", "hello\n"), Output("display", "<Figure>\n", png_or_jpeg(PNG)), Output("error", "Traceback")),
        notices=("careful",), reason="memory: too much",
    )  # fmt: skip
    assert result.text() == "hello\n<Figure>\n[image 1: 3 x 2 pixels]\nTraceback\n[careful]\n[killed, memory: too much]"
    assert Result("ok").text() == "[no output]"
    assert Result("timeout", reason="timeout: stopped").text() == "[timeout: stopped]"


@given(st.text(max_size=200), st.integers(0, 100))
def test_shortening_keeps_both_ends(text, limit):
    short = shorten(text, limit)
    if len(text) <= limit:
        assert short == text
    else:
        head, tail = (limit + 1) // 2, limit - (limit + 1) // 2
        assert short.startswith(text[:head])
        assert short.endswith(text[len(text) - tail :])
        assert f"[{len(text) - limit} characters left out]" in short
