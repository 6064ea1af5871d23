"""The report in a real browser: it opens, sorts, filters, shows images, and is accessible."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agr.report.html.contract import Answer, Example, Figure, HtmlTable, Page
from agr.report.html.escapes import size
from agr.report.html.render import render
from agr.report.numbers import Number, TableCell
from agr.report.perturbations import scaled
from tests.browser import (
    HOSTILE,
    NEGATIVE,
    a_page,
    chromium,
    claim,
    decoded,
    examples,
    opened,
    png,
    table,
)

# One worker has the browser.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def page() -> Page:
    return a_page()


@pytest.fixture(scope="module")
def text(page: Page) -> str:
    return render(page)


@pytest.fixture(scope="module")
def path(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(text, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


def wait_for(condition: Callable[[], bool]) -> None:
    """Playwright's own way to wait needs `eval`, which the page forbids."""
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def written(text: str, folder: Path) -> Path:
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def test_it_opens_without_network_errors_or_harm(browser: Any, path: Path, capsys: Any) -> None:
    with opened(browser, path) as tab:  # which says what is wrong in its end
        tab.locator(".chart").scroll_into_view_if_needed()
        tab.wait_for_selector(".chart[data-drawn=yes] svg")
        tab.locator("#table1 input").fill("<img")
        assert tab.locator("#table1 tbody tr").count() == 1
        for name in ("source", "attack", "image"):
            choose(tab, name, tab.locator(f"#pick-{name} option").count() - 1)
        assert HOSTILE[3] in tab.locator("#said").inner_text()
        assert tab.locator("h1").inner_text() == f"Report {HOSTILE[0]}"
        assert tab.evaluate("window.pwned") is None
        seconds = tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000
    with capsys.disabled():
        print(f"[page loaded in {seconds:.2f} s]", end=" ")
    assert 0 < seconds < 10  # 2 on a machine with nothing else to do


def test_no_other_script_could_run(browser: Any, path: Path) -> None:
    add = (
        "const s = document.createElement('script'); s.textContent = 'window.pwned = 1';"
        "document.body.append(s);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.pwned = 1\">')"
    )
    said: list[str] = []
    tab = browser.new_page()
    tab.on("console", lambda message: said.append(message.text))
    tab.goto(path.as_uri())
    tab.evaluate(add)
    tab.wait_for_timeout(300)
    assert tab.evaluate("window.pwned") is None
    assert "Content Security Policy" in " ".join(said)
    tab.close()


def column(tab: Any, j: int) -> list[str]:
    return tab.locator(f"#table1 tbody tr > :nth-child({j + 1})").all_inner_texts()


def test_tables_sort_by_number(browser: Any, path: Path) -> None:
    rising = ["—", NEGATIVE, "9.5 [8.2, 9.9]", "99.5 [98.2, 99.9]"]
    with opened(browser, path) as tab:
        head = tab.locator("#table1 thead th")
        assert head.nth(1).get_attribute("aria-sort") is None
        for order, expected in (("ascending", rising), ("descending", rising[::-1])):
            head.nth(1).click()
            tab.wait_for_selector(f"#table1 th:nth-child(2)[aria-sort={order}]")
            assert column(tab, 1) == expected
        head.nth(2).click()
        tab.wait_for_selector("#table1 th:nth-child(3)[aria-sort=ascending]")
        assert column(tab, 2) == ["7", "12", "999", "1,234"]


def test_tables_sort_by_key(browser: Any, path: Path) -> None:
    with opened(browser, path) as tab:
        tab.locator("#table1 input").focus()
        for _ in range(6):
            tab.keyboard.press("Tab")
            if tab.evaluate("document.activeElement.closest('th')?.innerText.trim()") == "images":
                break
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#table1 th:nth-child(3)[aria-sort=ascending]")
        assert column(tab, 2) == ["7", "12", "999", "1,234"]


def test_tables_filter(browser: Any, path: Path) -> None:
    with opened(browser, path) as tab:
        box = tab.get_by_label("Filter rows of Caption of table1")
        box.fill("fgsm")
        assert column(tab, 0) == ["I-FGSM", "MI-FGSM"]
        assert tab.locator("#table1 .count").inner_text() == "2 of 4 rows"
        box.fill("")
        assert len(column(tab, 0)) == 4
        assert tab.locator("#table1 .count").inner_text() == ""


def test_a_filter_finds_true_minus_signs_by_hyphens(browser: Any, path: Path) -> None:
    with opened(browser, path) as tab:
        tab.locator("#table1 input").fill("-1.5 onerror")
        assert column(tab, 1) == [NEGATIVE]


def test_answers_lead_to_their_evidence_also_where_it_is_folded(browser: Any, path: Path) -> None:
    with opened(browser, path) as tab:
        folded = tab.locator("#folded")
        assert not folded.is_visible()
        links = tab.locator("#short a")
        assert links.count() == 3
        links.nth(1).click()
        folded.wait_for(state="visible")
        links.nth(2).click()
        assert tab.evaluate("location.hash") == "#claims"
        claim = tab.locator("details.claim").first
        claim.locator("summary").first.click()
        assert claim.locator("blockquote").is_visible()


def test_a_wide_table_keeps_its_first_column_and_says_that_there_is_more(
    browser: Any, path: Path
) -> None:
    with opened(browser, path) as tab:
        tab.set_viewport_size({"width": 700, "height": 800})
        region = tab.get_by_role("region", name="Caption of table2")
        cue = tab.locator("#table2 .cue")
        wait_for(lambda: cue.inner_text() == "more columns →")
        first = region.locator("tbody th").first
        left = first.bounding_box()["x"]
        region.evaluate("r => { r.scrollLeft = r.scrollWidth; }")
        wait_for(lambda: cue.inner_text() == "more columns ←")
        assert first.bounding_box()["x"] == left
        assert region.locator("tbody td").first.bounding_box()["x"] < left


def test_a_chart_takes_the_place_of_its_picture_but_in_print(browser: Any, path: Path) -> None:
    with opened(browser, path) as tab:
        chart = tab.locator(".chart")
        chart.scroll_into_view_if_needed()
        tab.wait_for_selector(".chart[data-drawn=yes] svg")
        picture, plot = chart.locator("img"), chart.locator(".plot")
        assert (picture.is_visible(), plot.is_visible()) == (False, True)
        tab.emulate_media(media="print")
        assert (picture.is_visible(), plot.is_visible()) == (True, False)


def test_the_standard_report_is_not_too_tall(browser: Any, tmp_path: Path) -> None:
    """As much as experiment=report shows: ten attacks on six networks under two norms."""
    many: list[TableCell] = [Number(55.5, interval=(54.4, 56.6))] * 8
    notes = [f"note {i}" for i in range(8)]

    def tall(name: str, rows: int) -> HtmlTable:
        return table(name, [[f"row {i}", *many] for i in range(rows)], notes=notes)

    chart = {"data": [], "layout": {"height": 520}}
    line = "One norm: an attack is the best, by so many points, and none else is alike. "
    page = a_page(
        summary=[(f"term {i}", line) for i in range(9)],
        answers=[Answer("A question", 2 * line, [("the verdicts", "claims")])] * 5,
        leaderboards=[tall("board1", 11), tall("board2", 11)],
        tables=[tall(f"table{i}", 30) for i in range(5)],
        claims=[claim(f"claim {i}", "supported", "undecided") for i in range(11)],
        figures=[
            Figure(f"figure{i}", "Rates", line, png(), "python", None, chart, i < 2)
            for i in range(12)
        ],
        further=[tall(f"further{i}", 45) for i in range(4)],
        checklist=[],
    )
    with opened(browser, written(render(page), tmp_path)) as tab:
        tab.set_viewport_size({"width": 1400, "height": 900})
        assert 6_000 < tab.evaluate("document.documentElement.scrollHeight") <= 9_000


# ---- the image browser ---------------------------------------------------------------------------


def choose(tab: Any, name: str, option: str | int) -> None:
    how = {"index": option} if isinstance(option, int) else {"label": option}
    tab.locator(f"#pick-{name}").select_option(**how)


def options(tab: Any, name: str) -> list[str]:
    return tab.locator(f"#pick-{name} option").all_inner_texts()


def pick(tab: Any, example: Example, class_name: str = "cat (3)") -> None:
    choose(tab, "source", example.source)
    choose(tab, "image", f"{example.image_id}: {class_name}")
    choose(tab, "norm", example.norm)
    choose(tab, "attack", example.attack)


def shown(tab: Any, name: str) -> Any:
    return decoded(tab.locator(f"#{name}").get_attribute("src"))


def test_the_browser_shows_the_right_images(browser: Any, path: Path, page: Page) -> None:
    with opened(browser, path) as tab:
        assert "without loss" in tab.locator("#words").inner_text()
        for example in page.examples:
            pick(tab, example)
            assert np.array_equal(shown(tab, "clean"), example.clean)
            assert np.array_equal(shown(tab, "adversarial"), example.adversarial)
            change = example.adversarial.astype(int) - example.clean
            assert np.array_equal(shown(tab, "difference"), 128 + 10 * change)
            said = tab.locator("#said").inner_text()
            assert (
                f"Image {example.image_id}, cat (3); {example.attack} on {example.source}" in said
            )
            assert example.image_id in tab.locator("#adversarial").get_attribute("alt")


def test_with_loss_the_nearest_of_all_images_is_the_right_one(browser: Any, tmp_path: Path) -> None:
    many = examples(64)
    page = a_page(many, figures=[])
    bare = size(render(dataclasses.replace(page, examples=[])))
    path = written(render(page, bare + 220_000), tmp_path)
    with opened(browser, path) as tab:
        assert "as WebP of quality" in tab.locator("#words").inner_text()
        for example in many[::3]:
            pick(tab, example)
            seen = shown(tab, "difference")
            alike = [s for s in many if s.clean.shape == seen.shape]
            far = [
                np.abs(scaled(s.clean, s.adversarial, 10).astype(int) - seen).mean() for s in alike
            ]
            assert alike[int(np.argmin(far))] is example


def test_choices_that_do_not_exist_are_not_offered(browser: Any, path: Path) -> None:
    with opened(browser, path) as tab:
        choose(tab, "source", "VGG-16")
        choose(tab, "norm", "L2 = 12")
        assert options(tab, "attack") == [HOSTILE[0]]
        choose(tab, "source", "Inc-v3")
        assert options(tab, "attack") == ["AGR", HOSTILE[0]]
        choose(tab, "image", "img1: cat (3)")
        choose(tab, "source", HOSTILE[2])
        assert options(tab, "norm") == ["L∞ = 10"]
        assert options(tab, "target") == [f"{HOSTILE[2]} (the source)", "ResNet-152"]
        assert options(tab, "image") == ["img1: cat (3)", f"{HOSTILE[3]}: cat (3)"]
        # an image of the same name stays chosen in another group
        assert "Image img1," in tab.locator("#said").inner_text()
        groups = "g => g.map(x => x.label)"
        assert tab.locator("#pick-source optgroup").evaluate_all(groups) == ["tall", "wide"]


def test_every_way_of_choosing_ends_in_an_image_that_exists(
    browser: Any, path: Path, page: Page
) -> None:
    rng = np.random.default_rng(0)
    names = {(s.source, s.norm, s.attack, s.image_id): s for s in page.examples}
    with opened(browser, path) as tab:
        for _ in range(40):
            name = str(rng.choice(["source", "image", "norm", "attack", "target"]))
            choose(tab, name, int(rng.integers(len(options(tab, name)))))
            chosen = tab.evaluate(
                "['source', 'norm', 'attack', 'image'].map("
                "n => document.getElementById('pick-' + n).selectedOptions[0].text)"
            )
            *others, image = chosen
            example = names[(*others, image.removesuffix(": cat (3)"))]
            assert np.array_equal(shown(tab, "adversarial"), example.adversarial)


def test_answers_and_facts_are_shown(browser: Any, path: Path) -> None:
    with opened(browser, path) as tab:
        choose(tab, "attack", "AGR")
        assert options(tab, "target") == ["Inc-v3 (the source)", "VGG-16"]
        cells = tab.locator("#answers tr").nth(1).locator("th, td").all_inner_texts()
        fooled = f"{HOSTILE[1]} (4), 42.0 %"
        assert cells == ["VGG-16 (target)", "cat (3), 91.0 %", fooled, "yes"]
        said = tab.locator("#said").inner_text()
        assert f"VGG-16 says cat (3) at 91.0 % before and {HOSTILE[1]} (4) at" in said
        assert said.endswith(": fooled.")
        choose(tab, "attack", HOSTILE[0])
        assert tab.locator("#said").inner_text().endswith(": not fooled.")
        choose(tab, "target", "Inc-v3 (the source)")
        assert tab.locator("#answers tr").count() == 1
        facts = tab.locator("#facts dt").all_inner_texts()
        assert facts == ["label", "steps", HOSTILE[0]]


def test_an_image_that_no_target_was_asked_of_is_shown(browser: Any, tmp_path: Path) -> None:
    alone = dataclasses.replace(examples()[0], answers={}, facts={})
    with opened(browser, written(render(a_page([alone], figures=[])), tmp_path)) as tab:
        assert np.array_equal(shown(tab, "adversarial"), alone.adversarial)
        assert options(tab, "target") == ["no target was asked"]
        assert tab.locator("#said").inner_text().endswith("No target was asked.")
        assert tab.locator("#answers td").all_inner_texts() == ["not asked", "not asked", "—"]


def test_buttons_go_from_image_to_image_and_round(browser: Any, path: Path) -> None:
    with opened(browser, path) as tab:
        seen = []
        for _ in range(4):
            seen.append(tab.locator("#said").inner_text().split(",")[0])
            tab.get_by_role("button", name="Next image").click()
        assert seen == ["Image img0", "Image img1", "Image img2", "Image img0"]
        tab.get_by_role("button", name="Previous image").click()
        tab.get_by_role("button", name="Previous image").click()
        assert "Image img2," in tab.locator("#said").inner_text()


# ---- for everyone --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "details"), [("light", "open"), ("dark", "open"), ("light", "")]
)
def test_axe_finds_nothing_serious(browser: Any, path: Path, scheme: str, details: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened(browser, path, color_scheme=scheme) as tab:
        if details:
            tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            tab.locator(".chart").scroll_into_view_if_needed()
            tab.wait_for_selector(".chart[data-drawn=yes]")
        found = axe.run(tab).response["violations"]
        said = [(v["id"], v["impact"], v["nodes"][0]["html"]) for v in found]
        assert not [s for s in said if s[1] in ("serious", "critical")]


def test_the_keyboard_reaches_everything(browser: Any, path: Path) -> None:
    controls = {
        "previous",
        "next",
        *(f"pick-{n}" for n in ["source", "image", "norm", "attack", "target"]),
    }
    with opened(browser, path) as tab:
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.className") == "skip"
        reached = set()
        for _ in range(300):
            tab.keyboard.press("Tab")
            reached.add(tab.evaluate("document.activeElement.id"))
            if controls <= reached:
                break
        assert controls <= reached
        tab.locator("#pick-attack").focus()
        said = tab.locator("#said")
        before = said.inner_text()
        tab.keyboard.press("ArrowDown")
        wait_for(lambda: said.inner_text() != before)
        assert tab.evaluate("document.getElementById('said').ariaLive") == "polite"
        assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_skip_link_skips(browser: Any, path: Path) -> None:
    with opened(browser, path) as tab:
        tab.keyboard.press("Tab")
        tab.keyboard.press("Enter")
        assert tab.evaluate("document.activeElement.id") == "main"


def test_it_prints_whole(browser: Any, path: Path) -> None:
    with opened(browser, path) as tab:
        tab.set_viewport_size({"width": 1020, "height": 700})  # A4 across, less margins
        folded = tab.locator("details.printed table").first
        assert not folded.is_visible()
        tab.emulate_media(media="print")
        assert tab.locator("#table1 .filter").is_hidden()
        assert tab.locator("#viewer form").is_hidden()
        assert folded.evaluate("t => t.getBoundingClientRect().height") > 50
        assert tab.evaluate("document.documentElement.scrollWidth") <= 1020
        clipped = "t => t.filter(x => x.getBoundingClientRect().right > 1020).length"
        assert tab.locator("table").evaluate_all(clipped) == 0
        assert tab.pdf(prefer_css_page_size=True).startswith(b"%PDF")


def test_wide_tables_scroll_on_a_small_screen_and_the_page_does_not(
    browser: Any, path: Path
) -> None:
    with opened(browser, path) as tab:
        tab.set_viewport_size({"width": 360, "height": 700})
        assert tab.evaluate("document.documentElement.scrollWidth") == 360
        region = tab.get_by_role("region", name="Caption of table2")
        assert region.evaluate("r => r.scrollWidth > r.clientWidth")
        region.focus()
        tab.keyboard.press("ArrowRight")
        wait_for(lambda: region.evaluate("r => r.scrollLeft > 0"))


def test_it_reads_without_javascript(browser: Any, path: Path) -> None:
    with opened(browser, path, java_script_enabled=False) as tab:
        assert tab.get_by_role("columnheader", name="ASR (%)").first.is_visible()
        assert tab.get_by_text("The image browser needs JavaScript.").is_visible()
        assert tab.locator("#table1 .filter").is_hidden()
        assert tab.locator("#viewer").is_hidden()


def test_a_page_with_nothing_but_tables_works(browser: Any, tmp_path: Path) -> None:
    path = written(
        render(a_page([], figures=[], cells=table("cells", [["none", "—", "—"]]))), tmp_path
    )
    with opened(browser, path) as tab:
        assert tab.locator("#viewer").count() == 0
        tab.locator("#table1 thead th").first.click()
        tab.wait_for_selector("#table1 th[aria-sort=ascending]")
        assert column(tab, 0)[1:] == ["AGR", "I-FGSM", "MI-FGSM"]
