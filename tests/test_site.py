"""The site of a leaderboard: places and differences by hand, and its pages in a real browser."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from agr.config.compose import expand
from agr.records.claim import read_claim, write_claim
from agr.records.run_info import DataInfo, RunInfo, Session
from agr.records.store import Records
from agr.site import main
from agr.submission.boards import (
    BEST,
    boards_of,
    frame_of,
    leads,
    placed,
    placements,
    protocol_of,
    read_entries,
)
from agr.submission.card import address
from agr.submission.claimed import claim_of, entry_of
from agr.submission.site import site
from agr.utils.errors import ConfigError
from tests.browser import HOSTILE, chromium, opened
from tests.madeup import record

# Of eight images each: fooled on Inc-v4 and IR-v2.
WEAK = {"inc_v3": [1] * 8, "inc_v4": [1] + [0] * 7, "ir_v2": [0] * 8}  # 1 of 16
STRONG = {"inc_v3": [1] * 8, "inc_v4": [1] * 8, "ir_v2": [1] * 7 + [0]}  # 15 of 16
DEAR = {"inc_v3": [1] * 8, "inc_v4": [1] * 8, "ir_v2": [1] * 8}  # all


def entered(
    folder: Path,
    name: str,
    attack: str,
    successes: dict[str, list[int]],
    *words: str,
    day: str = "2026-01-01",
    gradients: int = 10,
    **facts: str,
) -> Path:
    """Make an entry whose numbers can be worked out."""
    given = (f"attack={attack}", "source=inc_v3", "n_images=8", f"outputs={folder}/records", *words)
    for cell in expand([*given]):
        record(cell, successes, backwards=gradients, forwards=gradients + 1, steps_used=gradients)

        def describe(run: RunInfo, cell: Any = cell) -> None:
            run.config, run.data = asdict(cell.config), DataInfo("csv", "0" * 64)
            run.sessions = [Session(f"{day}T12:00:00+00:00", "0/1", 8, 1.0, 1.0, 1, 1)]

        Records(cell.folder).update_run(describe)
    cells = [entry_of(Records(cell.folder)) for cell in expand([*given])]
    write_claim(folder, claim_of(cells, name, **facts))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [
        entered(tmp_path / "weak", "Weak", "ifgsm", WEAK),
        entered(tmp_path / "strong", "Strong", "mifgsm", STRONG, day="2026-01-03"),
        entered(tmp_path / "dear", "Dear", "vmifgsm", DEAR, day="2026-01-02", gradients=200),
    ]


def test_places_differences_and_leads_by_hand(folders: list[Path]) -> None:
    entries = read_entries(folders)
    ((task, results),) = boards_of(entries).items()
    assert task == ("linf", 10.0, "inc_v3", ("inc_v4", "ir_v2"))
    everything = placed(results)
    assert [(p.result.entry.claim.name, p.place) for p in everything] == [
        *(("Dear", 1), ("Strong", 2), ("Weak", 3))
    ]
    assert [p.result.rates["transfer"] for p in everything] == [100, 93.75, 6.25]
    assert [p.result.gradients for p in everything] == [200, 10, 10]
    assert everything[0].against_best == BEST
    # At most 210 gradients leaves out nothing, 10 leaves out as much as 70: shown is 70.
    places = placements({task: results})
    assert [most for _, most in places] == [math.inf, 70]
    frame = frame_of({task: results}, places)
    columns = ["gradients_at_most", "entry", "place", "best", "difference", "images_of_both"]
    assert frame[columns].fillna({"gradients_at_most": 0}).values.tolist() == [
        [0, "Dear", 1, "Dear", 0, 8],
        [0, "Strong", 2, "Dear", -6.25, 8],
        [0, "Weak", 3, "Dear", -93.75, 8],
        [70, "Strong", 1, "Strong", 0, 8],
        [70, "Weak", 2, "Strong", -87.5, 8],
    ]
    led = ["2026-01-02 12:00:00", "", "2026-01-01 12:00:00", "", ""]  # at any cost
    assert frame["led_from"].tolist() == led
    # One image of eight differs, by half: nothing that a test could see.
    assert everything[1].against_best.startswith("can't be told apart at n = 8")
    assert everything[2].against_best.startswith("transfers worse (−93.8 points [")
    cheap = placed(results, 10)
    assert [(p.result.entry.claim.name, p.place) for p in cheap] == [("Strong", 1), ("Weak", 2)]
    assert cheap[1].against_best.startswith("transfers worse (−87.5 points [")
    assert placed(results, 9) == []
    # Strong came last and led at no time.
    told = [
        (x.result.entry.claim.name, x.before and x.before.entry.claim.name) for x in leads(results)
    ]
    assert told == [("Weak", None), ("Dear", "Weak")]


def test_equals_share_a_place_and_unknown_cost_is_ranked_where_it_does_not_count(
    folders: list[Path],
) -> None:
    ((_, results),) = boards_of(read_entries(folders)).items()
    twin = results[0]._replace(gradients=math.nan)
    assert [p.place for p in placed([*results, twin])] == [1, 2, 3, 3]
    assert len(placed([*results, twin], 210)) == 3


def test_seeds_are_one_result_and_other_protocols_other_pages(tmp_path: Path) -> None:
    seeds = entered(tmp_path / "seeds", "Seeds", "ifgsm", WEAK, "seed=0,1", "denominator=all")
    other = entered(tmp_path / "other", "Other", "ifgsm", WEAK, "denominator=target-correct")
    steps = entered(tmp_path / "steps", "Steps", "ifgsm", WEAK, "steps=5")
    entries = read_entries([seeds, other, steps])
    ((_, results),) = boards_of(entries[:1]).items()
    assert len(results[0].cells) == 2
    assert results[0].rates["images"] == 8
    # How many steps it takes is the attack's own matter; who is counted isn't.
    assert protocol_of(entries[0]) == protocol_of(entries[2]) != protocol_of(entries[1])
    pages = [name for name in site(entries, "T") if name.startswith("demo-")]
    assert len(pages) == 4  # a page and a table for each of two


def test_a_claim_that_its_records_do_not_show_is_refused(folders: list[Path]) -> None:
    claim = read_claim(folders[0])
    cell = claim.cells[0]
    rates = [replace(rate, asr=99.0) for rate in cell.rates]
    write_claim(folders[0], replace(claim, cells=[replace(cell, rates=rates)]))
    with pytest.raises(ConfigError, match=r"weak claims what its records don't show: agr review"):
        read_entries(folders)


def test_two_entries_of_one_name_are_refused(folders: list[Path]) -> None:
    write_claim(folders[0], replace(read_claim(folders[0]), name="Strong"))
    with pytest.raises(ConfigError, match="are both called Strong"):
        read_entries(folders)


def test_a_name_may_come_again_under_another_protocol(tmp_path: Path) -> None:
    one = entered(tmp_path / "one", "Same", "ifgsm", WEAK, "denominator=all")
    other = entered(tmp_path / "other", "Same", "ifgsm", WEAK, "denominator=target-correct")
    files = site(read_entries([one, other]), "T")
    cards = [name for name in files if name.startswith("entries/")]
    assert len(cards) == 2
    assert [sum(card in text for text in files.values()) for card in cards] == [1, 1]


def test_a_card_says_what_its_p_is(folders: list[Path]) -> None:
    files = site(read_entries(folders), "T")
    card = files["entries/demo-Weak.html"]
    assert "without a correction, and never below what a sign test on as many images could" in card


def test_boards_stand_in_order_and_say_what_differs(tmp_path: Path) -> None:
    few = {name: outcomes[:6] for name, outcomes in STRONG.items()}
    folders = [
        entered(tmp_path / "some", "Some", "ifgsm", WEAK, "eps=4,10,16"),
        entered(tmp_path / "few", "Few", "mifgsm", few, "eps=10", "n_images=6"),
    ]
    files = site(read_entries(folders), "T")
    places = [files["index.html"].index(f"L∞ = {eps}<") for eps in (4, 10, 16)]
    assert places == sorted(places)
    assert "demo suite: stand-in networks" in files["index.html"]
    assert files["demo.html"].count("Entries have 6 to 8 images.") == 1
    frame = pd.read_csv(io.StringIO(files["demo.csv"]))
    assert frame["eps"].tolist() == [4, 10, 10, 16]
    assert frame["transfer"].tolist() == [6.25, 100, 6.25, 6.25]
    assert "91.6667" not in files["demo.csv"] or "91.66666" not in files["demo.csv"]


def called(*words: Any) -> None:
    main([*map(str, words)])


def test_the_command_writes_a_site_and_replaces_its_own_only(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "site"
    called(tmp_path, f"to={to}")
    assert capsys.readouterr().out == f"3 entries: {to}/index.html\n"
    assert (to / "entries" / "demo-Weak.html").exists()
    called(folders[1], f"to={to}")
    assert not (to / "entries" / "demo-Weak.html").exists()
    frame = pd.read_csv(to / "demo.csv")
    assert frame[["entry", "place", "transfer"]].values.tolist() == [["Strong", 1, 93.75]]
    (to / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match=r"has thesis\.tex, which belongs to no site"):
        called(folders[0], f"to={to}")
    assert (to / "entries" / "demo-Strong.html").exists()


def test_a_page_of_somebodys_own_is_kept(folders: list[Path], tmp_path: Path) -> None:
    to = tmp_path / "site"
    to.mkdir()
    for name in ("index.html", "thesis.html", "data.csv"):
        (to / name).write_text("mine")
        with pytest.raises(ConfigError, match=r"belongs to no site that agr wrote"):
            called(folders[0], f"to={to}")
        assert (to / name).read_text() == "mine"
        (to / name).unlink()
    called(folders[0], f"to={to}")
    (to / "entries" / "mine.html").write_text("mine")
    with pytest.raises(ConfigError, match=r"has entries/mine\.html"):
        called(folders[0], f"to={to}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give folders of entries"),
        (("weak",), "to=FOLDER"),
        (("weak", "to=site", "colour=red"), "colour= is unknown: known: title, to"),
        (("nowhere", "to=site"), "nowhere is not a folder"),
        (("empty", "to=site"), "empty has no entry"),
    ],
)
def test_bad_words_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(ConfigError, match=said):
        called(*words)
    assert not Path("site").exists()


def test_only_addresses_of_the_web_are_links() -> None:
    assert address("https://example.org/a?b=c") == "https://example.org/a?b=c"
    assert address("Dong et al., arXiv:1710.06081v3") == "https://arxiv.org/abs/1710.06081"
    assert not any(map(address, ("javascript:alert(1)", "data:text/html,x", "//x.org", "a paper")))


# ---- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of which strangers wrote every text."""
    folder, to = tmp_path_factory.mktemp("entries"), tmp_path_factory.mktemp("pages") / "site"
    entered(folder / "a", HOSTILE[0], "ifgsm", WEAK, by=HOSTILE[1], code="javascript:alert(1)")
    entered(folder / "b", HOSTILE[3], "mifgsm", STRONG, paper="arXiv:1710.06081", by=HOSTILE[2])
    entered(folder / "c", "Dear", "vmifgsm", DEAR, "norm=linf,l2", gradients=200)
    called(folder, f"to={to}")
    return to


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("width", [1280, 420])
def test_pages_are_safe_accessible_and_fit(browser: Any, pages: Path, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for path in sorted(pages.rglob("*.html")):
        card = path.parent.name == "entries"
        with opened(browser, path, waits=not card) as tab:
            tab.set_viewport_size({"width": width, "height": 900})
            assert tab.evaluate("window.pwned") is None
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            found = axe.run(tab).response["violations"]
            said = [(v["id"], v["impact"], v["nodes"][0]["html"]) for v in found]
            assert not [s for s in said if s[1] in ("serious", "critical")], path
            for link in tab.locator("a[href]").all():
                target = link.get_attribute("href")
                assert (
                    target.startswith(("https://arxiv.org/abs/1710.06081", "#"))
                    or (path.parent / target.partition("#")[0]).exists()
                ), target


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_boards_sort_and_filter(browser: Any, pages: Path) -> None:
    with opened(browser, pages / "demo.html") as tab:
        first = tab.locator("table").first
        names = [row.inner_text() for row in first.locator("tbody th").all()]
        assert names == ["Dear", HOSTILE[3], HOSTILE[0]]
        first.locator("thead th", has_text="mean transfer").click()
        names = [row.inner_text() for row in first.locator("tbody th").all()]
        assert names == [HOSTILE[0], HOSTILE[3], "Dear"]
        tab.locator("input").first.fill("dear")
        assert first.locator("tbody tr").count() == 1
        captions = [c.inner_text() for c in tab.locator("caption").all()]
        assert captions[:2] == [
            "L∞ = 10, any cost (up to 200.0 gradients)",
            "L∞ = 10, at most 70 gradients per image",
        ]
