"""The page of claims: which reading supports which claim. Markdown, and every comparison as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from agr.config.cell import Cell
from agr.report.claims.judge import CONTRADICTED, INCOMPLETE, SUPPORTED, Judge, Judgement
from agr.report.claims.spec import PAPER, Claim, load_claims
from agr.report.claims.wording import UNDECIDED, Compared
from agr.report.formats import bullets, csv_text, pipe_table, write_texts
from agr.report.notes import setting_notes
from agr.report.numbers import MARKDOWN
from agr.report.outcomes import Outcomes, Place

SIGNS = {SUPPORTED: "✓", CONTRADICTED: "✗", UNDECIDED: "?", INCOMPLETE: "…"}
LEGEND = (
    (
        "✓ supported: each of a claim's comparisons is, after Holm's correction over all of them "
        "(5 %), which covers one claim in one column: of twenty marks one may be wrong by chance"
    ),
    "✗ contradicted: at least one comparison shows the opposite, after the same correction",
    "? undecided: neither; so many images can't tell, or all came out alike",
    "… incomplete: nothing speaks against it so far, and not all that it names is run",
    "· not run, not printed, or not a question about records",
    "rates: McNemar's exact test on the images that both sides had; means: a bootstrap over these "
    "images; brackets: 95 % bootstrap interval of the difference, without correction",
    f"“{PAPER}”: the direction of the paper's own numbers, all of them; it doesn't say on how many "
    "images they are, so there is no test",
)


class Verdicts(NamedTuple):
    """Judgements of every claim, by column: the printed tables first, then every reading."""

    paper: str
    columns: list[str]
    claims: list[tuple[Claim, dict[str, Judgement]]]
    missing: list[str]


def judge_claims(outcomes: Outcomes, name: str) -> Verdicts:
    """Judge the claims of a file on records. Raises ConfigError."""
    claims, printed = load_claims(name)
    judge = Judge(claims, printed, outcomes)
    variants = claims.variants()
    found = []
    for claim in claims.claims:
        judged = {PAPER: judge.on_paper(claim)}
        judged |= {title: judge.on_records(claim, named) for title, named in variants.items()}
        found.append((claim, judged))
    return Verdicts(claims.paper, [PAPER, *variants], found, outcomes.missing())


def write_claims(cells: Sequence[Cell], verdicts: Verdicts, folder: Path) -> list[Path]:
    """Write the page and its numbers, claims.md and claims.csv, and return their paths."""
    texts = {
        "claims.md": claims_markdown(verdicts, [*setting_notes(cells), *verdicts.missing]),
        "claims.csv": csv_text(comparisons(verdicts)),
    }
    return write_texts(texts, folder)


def claims_markdown(verdicts: Verdicts, notes: Sequence[str]) -> str:
    """The page in Markdown."""
    escape = MARKDOWN.escape
    parts = [f"**Claims of {escape(verdicts.paper)}**", grid(verdicts)]
    parts += [bullets([*LEGEND, *notes]), bullets(which_supports_which(verdicts))]
    for claim, judged in verdicts.claims:
        parts += [f"### {escape(claim.title)}", f"> {escape(claim.says)}", escape(claim.where)]
        parts.append(bullets(reasons(judged)))
    return "\n\n".join(parts) + "\n"


def grid(verdicts: Verdicts) -> str:
    """One row per claim, one column per reading."""
    rows = [
        [claim.title, *(SIGNS.get(judged[c].verdict, "·") for c in verdicts.columns)]
        for claim, judged in verdicts.claims
    ]
    return pipe_table(["claim", *verdicts.columns], rows)


def which_supports_which(verdicts: Verdicts) -> list[str]:
    """A line for each column that says something: what it supports and what it contradicts."""
    lines = []
    for column in verdicts.columns:
        titles: dict[str, list[str]] = {SUPPORTED: [], CONTRADICTED: []}
        for claim, judged in verdicts.claims:
            titles.setdefault(judged[column].verdict, []).append(claim.title)
        said = {v: titles[v] for v in (SUPPORTED, CONTRADICTED)}
        if any(said.values()):
            texts = [f"{v}: {'; '.join(those) or 'nothing'}" for v, those in said.items()]
            lines.append(f"{column}: {'. '.join(texts)}")
    return lines


def reasons(judged: Mapping[str, Judgement]) -> list[str]:
    """Return the reasons of each column's verdict; columns with the same one share a line."""
    columns: dict[tuple[str, str], list[str]] = {}
    for column, judgement in judged.items():
        columns.setdefault((judgement.verdict, judgement.why), []).append(column)
    return [f"{' / '.join(c)}: {verdict}. {why}" for (verdict, why), c in columns.items()]


def comparisons(verdicts: Verdicts) -> pd.DataFrame:
    """Every comparison of every claim and column, one row each."""
    rows = [
        {"claim": claim.name, "reading": column}
        | {f"left_{key}": value for key, value in c.left._asdict().items()}
        | {f"right_{key}": value for key, value in c.right._asdict().items()}
        | vars(c)
        for claim, judged in verdicts.claims
        for column, judgement in judged.items()
        for c in judgement.compared
    ]
    sides = [f"{side}_{key}" for side in ("left", "right") for key in Place._fields]
    values = [f.name for f in fields(Compared) if f.name not in ("measure", "left", "right")]
    columns = ["claim", "reading", "measure", *sides, *values]
    return pd.DataFrame(rows, columns=columns)
