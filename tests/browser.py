"""A real browser for the report's page, and a small page of everything, some of it hostile."""

from __future__ import annotations

import base64
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agr.report.html.contract import (
    Answer,
    ClaimView,
    Example,
    Figure,
    HtmlTable,
    Page,
    TargetPrediction,
)
from agr.report.numbers import Number, TableCell

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
HOSTILE = (
    "</script><script>window.pwned=1</script>",
    '<img src="http://127.0.0.1:9/x.png" onerror="window.pwned=1">',
    '"><svg onload="window.pwned=1">',
    "<!--<script>{{ 7 * 7 }}</table></details>",
)
NEGATIVE = "−1.5 [−2.0, −1.0]"


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser with an empty profile."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    if not CHROMIUM:
        pytest.skip("needs a Chromium: install one, or name it in CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, path: Path, *, waits: bool = True, **context: Any) -> Iterator[Any]:
    """A page of a file once its script is through; in the end nothing may have gone wrong on it.

    Wrong are errors, whatever the console says, and any request but for the file itself.
    """
    wrong: list[str] = []
    window = browser.new_context(viewport={"width": 1280, "height": 900}, **context)
    tab = window.new_page()
    tab.on("console", lambda message: wrong.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    tab.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    window.on("request", lambda request: wrong.extend(_foreign(request.url, path)))
    tab.goto(path.as_uri())
    if waits and context.get("java_script_enabled", True):
        tab.wait_for_selector("html[data-tables=ready]", state="attached")
    yield tab
    tab.wait_for_timeout(50)  # what was begun may still fail
    window.close()
    assert not wrong


def _foreign(url: str, path: Path) -> list[str]:
    known = url.partition("#")[0] == path.as_uri() or url.startswith(("data:", "blob:"))
    return [] if known else [f"request: {url}"]


# ---- a page --------------------------------------------------------------------------------------


def table(
    name: str, rows: Sequence[Sequence[TableCell]] = (), caption: str = "", **more: Any
) -> HtmlTable:
    rows = rows or [
        ["AGR", Number(9.5, interval=(8.2, 9.9)), Number(1234, ",d")],
        ["I-FGSM", Number(99.5, interval=(98.2, 99.9), bold=True), Number(7, ",d")],
        ["MI-FGSM", Number(float("nan")), Number(12, ",d")],
        [HOSTILE[1], Number(-1.5, interval=(-2, -1)), Number(999, ",d")],
    ]
    header = ["attack", "ASR (%)", "images", *(f"more {i}" for i in range(len(rows[0]) - 3))]
    return HtmlTable(name, caption or f"Caption of {name}", header, rows, **more)


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 20), "teal").save(out, "PNG")
    return out.getvalue()


def examples(size: int = 24, images: int = 3) -> list[Example]:
    """Two groups, of which the second has one source, one norm, other images and another shape.

    In the first, one attack is missing for the second source in L2.
    """
    first = [
        ("tall", f"img{i}", norm, attack, source)
        for i in range(images)
        for norm in ("L∞ = 10", "L2 = 12")
        for attack in ("AGR", HOSTILE[0])
        for source in ("Inc-v3", "VGG-16")
        if (norm, attack, source) != ("L2 = 12", "AGR", "VGG-16")
    ]
    second = [
        ("wide", image, "L∞ = 10", attack, HOSTILE[2])
        for image in ("img1", HOSTILE[3])
        for attack in ("AGR", "DI")
    ]
    return [_example(size, *names) for names in first + second]


def _example(size: int, group: str, image: str, norm: str, attack: str, source: str) -> Example:
    shape = (size, size, 3) if group == "tall" else (size - 8, size, 3)
    clean = _noise((group, image), shape, 0, 256)
    change = _noise((group, image, norm, attack, source), shape, -1, 2) * 10
    adversarial = np.clip(clean + change, 0, 255).astype(np.uint8)
    fools = attack == "AGR"
    answer = TargetPrediction(3, 0.91, 4 if fools else 3, 0.42, fools)
    targets = ("Inc-v3", "VGG-16") if group == "tall" else (HOSTILE[2], "ResNet-152")
    facts = {"steps": "3", HOSTILE[0]: HOSTILE[1]}
    answers = dict.fromkeys(targets, answer)
    clean8 = clean.astype(np.uint8)
    return Example(image, 3, group, norm, attack, source, clean8, adversarial, facts, answers)


def _noise(names: Sequence[str], shape: tuple[int, ...], low: int, high: int) -> Any:
    seed = list("/".join(names).encode())
    return np.random.default_rng(seed).integers(low, high, shape)


def claim(name: str, *verdicts: str) -> ClaimView:
    columns = ["demo", HOSTILE[0]]
    return ClaimView(
        name=name,
        says=f"AGR is better {HOSTILE[1]}",
        where="Section 4",
        verdicts=dict(zip(columns, verdicts, strict=False)),
        why={"demo": f"71.2 against 65.0 {HOSTILE[2]}"},
        details=table("details"),
    )


def a_page(some: Sequence[Example] | None = None, **changes: Any) -> Page:
    """A page with something in each section."""
    line = {"type": "scatter", "name": HOSTILE[1], "x": [1, 2], "y": np.array([0.5, float("nan")])}
    layout = {"xaxis": {"title": {"text": "eps"}}, "title": {"text": HOSTILE[1]}}
    chart = {"data": [line], "layout": layout}
    first = table("table1", notes=[f"a note {HOSTILE[1]}"])
    folded = table("folded")
    wide = [
        [f"row {i}", *(Number(55.5, interval=(54.4, 56.6)) for _ in range(13))] for i in range(8)
    ]
    content: dict[str, Any] = {
        "title": f"Report {HOSTILE[0]}",
        "notice": f"Only a demo {HOSTILE[1]}",
        "summary": [("suite", "demo"), (HOSTILE[1], HOSTILE[2])],
        "answers": [
            Answer("Best", f"AGR {HOSTILE[1]}.", [("the table", first), (HOSTILE[0], folded)]),
            Answer("Claims", "One of two.", [("the claims", "claims")]),
        ],
        "tables": [first, table("table2", wide)],
        "claims": [
            claim("ClaimView one", "supported", "contradicted"),
            claim(HOSTILE[0], "undecided"),
        ],
        "claims_about": ["supported: the interval lies above 0"],
        "figures": [
            Figure("figure1", "Rates", "They rise.", png(), "python -m x", table("numbers")),
            Figure("figure2", "By eps", "They rise.", png(), "python -m x", None, chart),
            Figure("figure3", "Folded", "They fall.", png(), "python -m x", folded, None, False),
        ],
        "examples": examples() if some is None else some,
        "leaderboards": [table("leaderboard")],
        "further": [table("differences")],
        "checklist": [(f"Are there {HOSTILE[0]}?", ["one", f"two {HOSTILE[1]}"])],
        "provenance": [("commit", "abc"), (HOSTILE[0], HOSTILE[2])],
        "cells": table("cells"),
        "commands": ["make report", HOSTILE[0]],
        "classes": {3: "cat", 4: HOSTILE[1], 5: "never said"},
    }
    return Page(**{**content, **changes})


def decoded(address: str) -> Any:
    """The pixels of a picture in the page."""
    head, _, data = address.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
