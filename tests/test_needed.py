"""Runs that another command needs: they end together, and say once how to go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from agr.jobs.console import INNER, guard
from agr.jobs.needed import run_first
from agr.utils.signals import Interrupted, stoppable


def stands_in(path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have a shell script run in place of Python."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_signal_ends_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = "cd $(dirname $0); trap 'touch ended; exit 143' TERM; touch began"
    script = f"{trap}; for i in $(seq 100); do sleep 0.1; done"  # 10 s, were it not stopped
    stands_in(tmp_path / "python", monkeypatch, script)

    def kill() -> None:
        until = time.monotonic() + 10
        while not (tmp_path / "began").exists() and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(Interrupted) as e, stoppable():
        run_first([])
    assert e.value.number == signal.SIGTERM
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("exit 143", Interrupted(signal.SIGTERM)),
        ("exit 130", Interrupted(signal.SIGINT)),
        ("kill -TERM $$", Interrupted(signal.SIGTERM)),  # before it could catch it
        ("exit 2", SystemExit(2)),
        ("kill -KILL $$", SystemExit(-9)),
    ],
)
def test_its_end_is_ours(
    end: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands_in(tmp_path / "python", monkeypatch, end)
    with pytest.raises(type(error)) as e:
        run_first([])
    assert e.value.args == error.args


@pytest.mark.parametrize("inner", [False, True])
def test_the_outer_command_has_the_last_word(
    *, inner: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if inner:
        monkeypatch.setenv(INNER, "1")

    def stopped() -> None:
        raise Interrupted(signal.SIGTERM)

    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit, match="143"):
            guard(stopped, keep_memory=False)
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    assert ("stopped by SIGTERM" in capsys.readouterr().err) is not inner
