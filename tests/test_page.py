"""The report's page: what is in the file, and what fits into it."""

from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from agr.report.html import images as image_room
from agr.report.html.contract import Example, HtmlTable, Page
from agr.report.html.escapes import json_value, shipped, size
from agr.report.html.render import grid, render
from agr.report.numbers import MARKDOWN, PLAIN, TEX, Number, TableCell, printed
from agr.utils.errors import ConfigError
from tests.browser import a_page, decoded, examples, table


@pytest.fixture(scope="module")
def page() -> Page:
    return a_page()


@pytest.fixture(scope="module")
def text(page: Page) -> str:
    return render(page)


NAN = float("nan")


def keys(*column: TableCell) -> list[str | None]:
    return [
        row[0].order for row in grid(HtmlTable("t", "", ["a"], [[cell] for cell in column])).rows
    ]


def test_numbers_are_sorted_by_value_whatever_is_printed() -> None:
    column = (Number(9.5, interval=(8, 11)), Number(1e-5, text="< 0.0001"), Number(NAN), "")
    assert keys(*column) == ["9.5", "1e-05", "-1e+308", "-1e+308"]
    assert keys(Number(NAN, text="n = 0"), Number(math.inf)) == ["-1e+308", "1e+308"]


def test_a_column_with_text_is_sorted_as_text() -> None:
    assert keys(Number(1), "AGR") == [None, None]
    assert keys("2024-01-02", "") == [None, None]


@pytest.mark.parametrize(
    ("number", "plain", "markdown", "tex"),
    [
        (Number(62.34), "62.3", "62.3", "62.3"),
        (Number(NAN, difference=2), "—", "—", "---"),
        (Number(NAN, text="n = 0"), "n = 0", "n = 0", "n = 0"),
        (Number(5, spread=0.25), "5.0 ± 0.2", "5.0 ± 0.2", r"5.0 $\pm$ 0.2"),
        (Number(5, interval=(4, 6.5)), "5.0 [4.0, 6.5]", "5.0 [4.0, 6.5]", "5.0 [4.0, 6.5]"),
        (Number(5, bold=True, star=True), "5.0*", r"**5.0**\*", r"\textbf{5.0}$^{*}$"),
        (Number(28.86, ".2f", difference=-3.5), "28.86 (−3.5)", "28.86 (−3.5)", "28.86 ($-$3.5)"),
        (Number(28.86, ".2f", difference=NAN), "28.86", "28.86", "28.86"),
    ],
)
def test_a_number_is_printed_in_each_format(
    number: Number, plain: str, markdown: str, tex: str
) -> None:
    assert [printed(number, style) for style in (PLAIN, MARKDOWN, TEX)] == [plain, markdown, tex]


# ---- what is in the file -------------------------------------------------------------------------


class Reader(HTMLParser):
    """The elements of a page, and its tables as texts, as a reader without scripts has them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[dict[str, list[Any]]] = []
        self.levels: list[int] = []
        self.within: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append({"caption": [], "head": [], "cells": []})
        elif tag in ("caption", "th", "td"):
            scope = dict(attrs).get("scope")
            kind = "caption" if tag == "caption" else "head" if scope == "col" else "cells"
            self.within = []
            self.tables[-1][kind].append(self.within)
        elif re.fullmatch(r"h\d", tag):
            self.levels.append(int(tag[1]))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("caption", "th", "td"):
            self.within = None

    def handle_data(self, data: str) -> None:
        if self.within is not None:
            self.within.append(data)


@pytest.fixture(scope="module")
def read(text: str) -> Reader:
    return Reader(text)


def test_every_table_is_there_without_a_script(page: Page, read: Reader) -> None:
    found = {"".join(t["caption"][0]): t for t in read.tables}
    all_of_them = [*page.tables, *page.leaderboards, *page.further, page.cells]
    for one in [*all_of_them, *(c.details for c in page.claims), page.figures[0].data]:
        assert one
        shown = found[one.caption]
        assert ["".join(h) for h in shown["head"]] == list(one.header)
        assert ["".join(c) for c in shown["cells"]] == [
            printed(cell) for row in one.rows for cell in row
        ]


def test_the_page_has_landmarks_and_headings_in_order(read: Reader) -> None:
    tags = [tag for tag, _ in read.elements]
    assert read.elements[0] == ("html", {"lang": "en"})
    assert (tags.count("main"), tags.count("nav"), tags.count("h1")) == (1, 1, 1)
    steps = np.diff(read.levels)
    assert read.levels[0] == 1
    assert steps.max() == 1
    heads = [attributes for tag, attributes in read.elements if tag == "th"]
    assert all(h.get("scope") in ("row", "col") for h in heads)


def test_no_two_elements_share_an_id_and_no_link_leads_nowhere(read: Reader) -> None:
    ids = [a["id"] for _, a in read.elements if "id" in a]
    assert len(ids) == len(set(ids)) > 20  # six tables are called "details" or hostile
    links = [a["href"] or "" for tag, a in read.elements if tag == "a"]
    assert {link[1:] for link in links} <= set(ids)


def test_nothing_in_the_file_is_fetched_from_elsewhere(read: Reader) -> None:
    for tag, attributes in read.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:")), (tag, name, address)
        assert not any(name.startswith("on") for name in attributes)


def test_a_page_without_charts_images_and_claims_has_no_such_section() -> None:
    few = table("table1")
    text = render(a_page([], figures=[], claims=[], answers=[], notice="", tables=[few]))
    ids = {a.get("id") for _, a in Reader(text).elements}
    assert "tables" in ids
    assert not {"plotly", "figures", "browser", "examples", "claims", "short"} & ids
    assert "Read this first" not in text
    assert size(text) < 600_000


def test_a_row_of_another_length_is_named() -> None:
    ragged = HtmlTable("ragged", "", ["a", "b"], [["1", "2"], ["1"]])
    with pytest.raises(ValueError, match="table ragged: row 1 has 1 cells and the header has 2"):
        render(a_page([], tables=[ragged]))


def test_a_library_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"needs x.js of the package nothing_such.*pip install"):
        shipped("nothing_such", "x.js")


def test_a_lone_surrogate_does_not_keep_the_page_from_being_written() -> None:
    assert render(a_page([], notice="a \ud800 file")).encode()


# ---- charts --------------------------------------------------------------------------------------


def test_a_charts_data_is_json() -> None:
    assert json_value({"y": np.array([0.5, np.inf]), 1: (np.int64(2), "a")}) == {
        "y": [0.5, None],
        "1": [2, "a"],
    }


# ---- pictures that fit ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def some() -> list[Example]:
    return examples(size=100, images=4)


@pytest.fixture(scope="module")
def weights(some: list[Example]) -> list[int]:
    """What all pictures weigh, step by step."""
    factors = image_room.factors_of(some)
    every = [image_room._encode(some, factors, s) for s in image_room.ENCODINGS]
    return [image_room.weight(pictures) for pictures in every]


def test_pictures_are_exact_where_they_fit(some: list[Example], weights: list[int]) -> None:
    pictures = image_room.fit(some, 2 * weights[0])
    assert pictures.encoding == (None, None)
    assert pictures.images_left_out == 0
    for i, example in enumerate(some):
        own = f"data:image/webp;base64,{pictures.adversarials[i]}"
        assert np.array_equal(decoded(own), example.adversarial)
        change = example.adversarial.astype(int) - example.clean
        shown = decoded(f"data:image/webp;base64,{pictures.differences[i]}")
        assert np.array_equal(shown, 128 + pictures.factors[example.norm] * change)


@pytest.mark.slow
def test_pictures_step_down_until_they_fit(some: list[Example], weights: list[int]) -> None:
    taken = []
    for left in (weights[0] + 1, weights[1] + 1, weights[3] + 1, weights[-3] + 1, weights[-1] + 1):
        pictures = image_room.fit(some, int(left * 1.1))
        assert image_room.weight(pictures) <= left * 1.1
        assert pictures.images_left_out == 0
        taken.append(image_room.ENCODINGS.index(pictures.encoding))
    assert taken == sorted(taken)
    assert taken[0] == 0
    assert len(set(taken)) >= 4
    sides = [max(decoded(f"data:image/webp;base64,{p}").shape) for p in pictures.adversarials]
    assert set(sides) == {64}


@pytest.mark.slow
def test_images_are_left_out_last_and_whole(some: list[Example], weights: list[int]) -> None:
    pictures = image_room.fit(some, weights[-1] * 6 // 10)
    assert image_room.weight(pictures) <= weights[-1] * 6 // 10
    assert pictures.images_left_out > 0
    kept = set(pictures.cleans)
    assert {group for group, _ in kept} == {"tall", "wide"}
    assert list(pictures.examples) == [s for s in some if image_room.key_of(s) in kept]


@pytest.mark.slow
def test_an_estimate_that_is_too_low_costs_time_but_no_bytes(
    some: list[Example], weights: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_room, "_estimate", lambda *_: 1)
    for left in (weights[2], weights[-1] * 6 // 10):
        assert image_room.weight(image_room.fit(some, left)) <= left


@pytest.mark.slow
def test_what_cannot_fit_is_refused_with_its_size(some: list[Example], page: Page) -> None:
    with pytest.raises(ConfigError, match=r"image browser: 32 attacked images .* give it more"):
        image_room.fit(some, 5_000)
    with pytest.raises(ConfigError, match="into the 0 bytes that the rest of the page leaves"):
        render(page, 500_000)
    with pytest.raises(ConfigError, match=r"more than the 500,000 that it may have"):
        render(dataclasses.replace(page, examples=[]), 500_000)


@pytest.mark.parametrize("share", [0.3, 0.6, 1.5])
def test_the_file_stays_within_its_bytes(page: Page, share: float) -> None:
    page = dataclasses.replace(page, examples=examples(64))
    bare = size(render(dataclasses.replace(page, examples=[])))
    most = bare + int(share * 500_000)
    assert bare < size(render(page, most)) <= most


def test_many_pictures_are_not_all_encoded_to_find_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = image_room.encoded
    calls = []
    monkeypatch.setattr(image_room, "encoded", lambda *a: calls.append(1) or encoded(*a))
    many = examples(24, images=60)
    image_room.fit(many, 300 * len(many) * 2)
    assert 2 * len(many) < len(calls) < 4 * len(many)


def test_the_factor_shows_nearly_all_of_a_norms_changes() -> None:
    flat = np.full((8, 8, 3), 100, np.uint8)
    few = dataclasses.replace(examples()[0], clean=flat, adversarial=flat + np.uint8(10))
    assert image_room.factors_of([few]) == {few.norm: 10}
    strong = dataclasses.replace(few, adversarial=flat + np.uint8(100))
    assert image_room.factors_of([few, strong]) == {few.norm: 1}
    assert image_room.factors_of([dataclasses.replace(few, adversarial=flat)]) == {few.norm: 1}
