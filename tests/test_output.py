"""Output that is lost while the work goes on, and files that are replaced as a whole."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest

from agr.jobs.console import guard
from agr.jobs.output import MOVES, Output, tolerant_output
from agr.report.formats import csv_text
from agr.utils.files import write_all
from agr.utils.pixels import write_png


class Failing(io.StringIO):
    """A stream that fails from the second text on."""

    def __init__(self, error: Exception):
        super().__init__()
        self.error, self.texts = error, list[str]()

    def write(self, text: str) -> int:
        if self.texts:
            raise self.error
        self.texts.append(text)
        return len(text)


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("I/O operation on closed file"),
    ],
)
def test_a_stream_that_fails_is_given_up(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = Failing(error)
    output = Output(stream)
    for text in ("one", "two", "three"):
        assert output.write(text) == len(text)
        output.flush()
    assert stream.texts == ["one"]
    note = capsys.readouterr().err
    lost = not isinstance(error, BrokenPipeError)  # its reader has gone by itself
    assert note.startswith("note: output is lost (") is lost
    assert len(note.splitlines()) == int(lost)


def test_no_stream_at_all() -> None:
    output = Output(None)
    assert output.write("text") == 4
    output.flush()
    assert not output.isatty()


def test_both_streams_may_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(sys, "stdout", Failing(full))
    monkeypatch.setattr(sys, "stderr", Failing(full))
    with tolerant_output():
        for _ in range(3):
            print("one")
            print("two", file=sys.stderr)
    assert isinstance(sys.stdout, Failing)


FULL, LEFT = OSError(errno.ENOSPC, "No space"), BrokenPipeError(errno.EPIPE, "Broken pipe")
CLOSED = ValueError("I/O operation on closed file")


@pytest.mark.parametrize(
    ("words", "error", "code"),
    [
        *((f"{command}.py", error, 1) for command in ("check", "plan", "status", "verify")
          for error in (FULL, CLOSED, None)),
        ("run.py --cfg job", FULL, 1),
        ("agr --cfg=job attack=agr", FULL, 1),
        ("score.py --help", None, 1),
        ("status.py", LEFT, 0),
        ("run.py -m --config-dir=x", FULL, 0),
        ("run.py attack=agr", None, 0),
        ("make_report.py --run", FULL, 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", [None, SystemExit(False), SystemExit(3)])
def test_a_command_that_only_prints_fails_with_its_output(
    words: str,
    error: Exception | None,
    code: int,
    ending: SystemExit | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", words.split())
    monkeypatch.setattr(sys, "stdout", error and Failing(error))
    monkeypatch.setattr("agr.jobs.console.stoppable", nullcontext)

    def work() -> None:
        print("one\ntwo")
        if ending:
            raise ending

    found = 0
    try:
        guard(work, keep_memory=False)
    except SystemExit as e:
        found = int(e.code or 0)
    assert found == (code if ending is None or not ending.code else 3)


def test_signs_that_an_encoding_lacks_are_replaced() -> None:
    raw = io.BytesIO()
    output = Output(io.TextIOWrapper(raw, encoding="ascii"))
    output.write("L∞ ≥ 0.5\n")
    output.flush()
    assert raw.getvalue() == b"L? ? 0.5\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\x07b\u202ec", r"a\x07b\u202ec"),
        ("bar\r 10 %\x1b[A\n\t", "bar\r 10 %\x1b[A\n\t"),  # as progress bars move
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\udcff", r"\udcff"),
    ],
)
def test_a_terminal_gets_no_orders(text: str, shown: str) -> None:
    stream = io.StringIO()
    Output(stream, MOVES).write(text)
    assert stream.getvalue() == shown


def test_only_progress_bars_move_a_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are on standard error; a name on standard output could overwrite what was said."""
    streams = {name: io.StringIO() for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    with tolerant_output():
        for file in (sys.stdout, sys.stderr):
            print("problem\tx\r\x1b[Aok", file=file)
    assert streams["stdout"].getvalue() == "problem\tx\\r\\x1b[Aok\n"
    assert streams["stderr"].getvalue() == "problem\tx\r\x1b[Aok\n"


# ---- files ---------------------------------------------------------------------------------------


def test_older_files_go_when_all_new_ones_are_there(tmp_path: Path) -> None:
    old = {tmp_path / "a.csv": b"old a", tmp_path / "b.csv": b"old b"}
    for path, content in old.items():
        path.write_bytes(content)
    new = {tmp_path / "a.csv": b"new a", tmp_path / "sub" / "c.csv": b"new c"}
    assert write_all(new, tmp_path.glob("*.csv")) == [*new]
    found = {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*.csv")}
    assert found == {"a.csv": b"new a", "sub/c.csv": b"new c"}


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_full_disk_leaves_the_older_files(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file it is that can't be written."""
    paths = [tmp_path / f"{name}.md" for name in "abc"]
    for path in [*paths, tmp_path / "stale.md"]:
        path.write_bytes(b"old")
    replace: Callable[..., Path] = Path.replace

    def fails(self: Path, target: Path) -> Path:
        if target == paths[at]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="No space"):
        write_all(dict.fromkeys(paths, b"new"), tmp_path.glob("*.md"))
    expected = [b"new"] * at + [b"old"] * (3 - at)
    assert [path.read_bytes() for path in paths] == expected
    assert (tmp_path / "stale.md").exists()
    assert len(os.listdir(tmp_path)) == 4


def test_a_png_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    from PIL import Image

    path, pixels = tmp_path / "a.png", np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    write_png(path, pixels)
    assert np.array_equal(np.asarray(Image.open(path)), pixels)
    before = path.read_bytes()

    def fails(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="No space"):
        write_png(path, pixels[::-1].copy())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    "text",
    ["-2+3+cmd|' /C calc'!A0", "+2+3", "-1e5*2", "-1.5.2", "-.", "+", "--1", "-1-1", "-1\n", "-A1",
     "\t=1", "\r1", "=1", "@1", "-1 [-2, 3]", "-\u0661"],
)  # fmt: skip
def test_what_begins_like_a_formula_is_quoted(text: str) -> None:
    assert csv_text(pd.DataFrame({"a": [text]})).replace('"', "") == f"a\n'{text}\n"


@pytest.mark.parametrize("text", ["-1.5", "+3", "-2e-05", "-.5", "-", "1+1", "", " =1"])
def test_plain_numbers_stay_as_they_are(text: str) -> None:
    assert csv_text(pd.DataFrame({"a": [text], "b": 0})).splitlines()[1] == f"{text},0"


def test_no_text_of_a_csv_is_a_formula() -> None:
    frame = pd.DataFrame({"name": ["=1+1", "@x", "+a", "-b", "-", "-1.5", "a=b"], "n": -1.5})
    lines = csv_text(frame).splitlines()
    assert lines[1:] == [
        "'=1+1,-1.5", "'@x,-1.5", "'+a,-1.5", "'-b,-1.5", "-,-1.5", "-1.5,-1.5", "a=b,-1.5",
    ]  # fmt: skip
