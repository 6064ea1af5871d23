"""The paper's Tables 1-3 from records: Markdown, LaTeX and CSV. Needs neither torch nor timm.

A table shows the cells of one sweep, found by their identity, so numbers of another eps, seed,
step count or attack can't slip in. A cell that is missing or unfinished is "—", with the command
that fills it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment
from tabulate import tabulate

from agr.config import Cell
from agr.errors import printable
from agr.naming import slug
from agr.precision import compared
from agr.records import Records
from agr.report.results import NUMBER_OF, needed, norm_title, rate, rates_and_sizes, selected

# Words that say where and how cells are run, not which ones are shown.
NOT_SHOWN = (
    *("experiment=", "suite=", "outputs=", "data.", "hydra", "--", "-", "slots=", "width="),
    *("threads=", "device=", "workers=", "shard=", "progress=", "part_seconds=", "check."),
    *("trace=", "save_adversarials=", "wait=", "shards="),
)

PAPER_SOURCE_OF_TABLE_3 = "inc_v3"
SIZES = {
    "rel_l2": "‖v‖₂/‖x‖₂",
    "mean_abs": "mean abs(v), [0,1]",
    "mean_abs_sym": "mean abs(v), [-1,1]",
}
NO_RUN = "—"

TEX_TEMPLATES = Environment(
    block_start_string="<%", block_end_string="%>", variable_start_string="<<",
    variable_end_string=">>", trim_blocks=True, lstrip_blocks=True, autoescape=False,
)  # fmt: skip
LATEX = TEX_TEMPLATES.from_string(r"""% needs \usepackage{booktabs,graphicx}
\begin{table}
\centering
\footnotesize
\caption{<< caption >>}
% No wider than the page, and no larger than it is.
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{
\begin{tabular}{ll<< "r" * (columns - 2) >>}
\toprule
<% for block in blocks %>
<% if not loop.first %>
\midrule
<% endif %>
<< block.header | join(" & ") >> \\
\midrule
<% for row in block.rows %>
<< row | join(" & ") >> \\
<% endfor %>
<% endfor %>
\bottomrule
\end{tabular}}
\\[2pt] \parbox{\linewidth}{\scriptsize << notes | join(" \\\\ ") >>}
\end{table}
""")


class Text(NamedTuple):
    """How a table's pieces look in one format."""

    bold: str
    star: str
    plain: Callable[[str], str]  # a name or other text, without any meaning that it may have there


# What means something in Markdown, of which HTML is a part; brackets where they make a link.
MARKUP = re.compile(r"[\\`*|<]|\](?=[(\[:])|&(?=#?\w+;)")
SIGNS = {
    **{sign: f"\\{sign}" for sign in "%&_#${}"},
    **{sign: f"${sign}$" for sign in "<>|"},
    **{"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"},
    **{"∞": r"$_\infty$", "—": "---", "±": r"$\pm$", "→": r"$\to$", "‖": r"$\|$"},
    **{"₂": "$_2$", "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$", "ε": r"$\epsilon$"},
    **{"β": r"$\beta$", "δ": r"$\delta$", "μ": r"$\mu$", "φ": r"$\varphi$", "√": r"$\sqrt{}$"},
    **{"“": "``", "”": "''", "…": r"\ldots{}"},
}


LATIN = "\u0180"  # what pdflatex knows without further packages; of other letters it makes an error


def _markdown_of(value: str) -> str:
    return MARKUP.sub(r"\\\g<0>", printable(value))


def _tex_of(value: str) -> str:
    """Text for LaTeX; "[" or "*" at its beginning would belong to the line break before."""
    known = (SIGNS.get(s, s if s < LATIN else "?") for s in printable(value))
    tex = "".join(known)
    return f"{{{tex[0]}}}{tex[1:]}" if tex.startswith(("[", "*")) else tex


MARKDOWN = Text(bold="**{}**", star=r"\*", plain=_markdown_of)
TEX = Text(bold=r"\textbf{{{}}}", star="$^{*}$", plain=_tex_of)


class Block(NamedTuple):
    """One group of networks: a header and rows of text."""

    header: list[str]
    rows: list[list[str]]


def tables_folder(cells: Sequence[Cell], asked: Sequence[str], kind: str = "tables") -> Path:
    """A folder for each set of tables: the experiment, and the words that change what is shown."""
    experiment = next(word.partition("=")[2] for word in asked if word.startswith("experiment="))
    changes = sorted(word for word in asked if not word.lstrip("+").startswith(NOT_SHOWN))
    return cells[0].suite_folder / kind / slug(",".join([experiment, *changes]))


class Sheet(NamedTuple):
    """One table before it has a format."""

    name: str
    caption: str
    frame: pd.DataFrame  # its numbers
    cells: Sequence[Cell]
    draw: Callable[[Sequence[Cell], pd.DataFrame, Text], list[Block]]
    notes: list[str]

    def blocks(self, text: Text) -> list[Block]:
        """What is shown, in one format."""
        return self.draw(self.cells, self.frame, text)


def write_tables(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Render the tables of a sweep's cells into `folder`, in place of older ones; the paths."""
    return write_sheets(sheets_of(cells), folder, "table[123].*")


def sheets_of(cells: Sequence[Cell]) -> list[Sheet]:
    """Tables 1-3 of a sweep's cells, as far as it has them. Raises ConfigError."""
    asr, amp = rates_and_sizes(cells)
    sheets = []
    for norm, number in NUMBER_OF.items():
        mine = [c for c in cells if c.config.norm.name == norm]
        if mine:
            part = asr[asr["norm"] == norm]
            budget = f"{norm_title(norm)} = {mine[0].config.eps:g}"
            caption = f"Table {number}: ASR (%), {budget}"
            notes = [*setting(mine), *_asr_notes(mine, part), *missing(mine, part)]
            sheets.append(Sheet(f"table{number}", caption, part, mine, _asr_blocks, notes))
    mine = [c for c in cells if c.source == PAPER_SOURCE_OF_TABLE_3]
    if mine:
        part = amp[amp["source"] == PAPER_SOURCE_OF_TABLE_3]
        caption = f"Table 3: size of the perturbations crafted on {mine[0].title(mine[0].source)}"
        notes = [
            *setting(mine),
            "means over all images of a cell; the difference is that of ‖v‖₂/‖x‖₂",
            *missing(mine, part),
        ]
        sheets.append(Sheet("table3", caption, part, mine, _amp_blocks, notes))
    return sheets


def write_sheets(sheets: Sequence[Sheet], folder: Path, older: str) -> list[Path]:
    """Tables in three formats each, in place of `older` files (a pattern); the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(older):
        old.unlink()
    return [path for sheet in sheets for path in _write_sheet(sheet, folder)]


def _write_sheet(sheet: Sheet, folder: Path) -> list[Path]:
    texts = {"md": markdown(sheet), "tex": latex(sheet), "csv": sheet.frame.to_csv(index=False)}
    paths = [folder / f"{sheet.name}.{suffix}" for suffix in texts]
    for path, content in zip(paths, texts.values(), strict=True):
        path.write_text(content, encoding="utf-8")
    return paths


NUMBERED = re.compile(r"^Table \d+: ")  # LaTeX counts by itself


def latex(sheet: Sheet) -> str:
    """A table for a paper: \\input it; it needs booktabs and graphicx."""
    blocks = sheet.blocks(TEX)
    return LATEX.render(
        caption=TEX.plain(NUMBERED.sub("", sheet.caption)),
        blocks=blocks,
        columns=max(len(block.header) for block in blocks),
        notes=[TEX.plain(n) for n in sheet.notes],
    )


def markdown(sheet: Sheet) -> str:
    """A table for a page or a pull request."""
    blocks = sheet.blocks(MARKDOWN)
    tables = [tabulate(b.rows, b.header, tablefmt="pipe", disable_numparse=True) for b in blocks]
    items = "\n".join(f"- {MARKDOWN.plain(n)}" for n in sheet.notes)
    return "\n\n".join([f"**{MARKDOWN.plain(sheet.caption)}**", *tables, items]) + "\n"


def _asr_blocks(cells: Sequence[Cell], frame: pd.DataFrame, text: Text) -> list[Block]:
    """One block per group: a row per source and attack, two columns per target."""
    blocks = []
    groups = frame.groupby(["source", "target", "attack"])
    found = dict(iter(groups))
    means = groups["asr"].apply(lambda asr: asr.mean(skipna=False))
    best = means.groupby(["source", "target"]).max()
    for mine in _by_group(cells):
        targets = list(dict.fromkeys(t for c in mine for t in c.targets))
        header = ["Source", "Attack"]
        for target in targets:
            header += [text.plain(mine[0].title(target)), "paper (diff.)"]
        rows = []
        for source in dict.fromkeys(c.source for c in mine):
            attacks = {c.config.attack.name: c for c in mine if c.source == source}
            for i, (attack, cell) in enumerate(attacks.items()):
                title = "" if i else text.plain(cell.title(source))
                row = [title, text.plain(cell.config.attack.title)]
                for target in targets:
                    seeds = found.get((source, target, attack))
                    if seeds is None:
                        row += [text.plain(NO_RUN)] * 2
                    else:
                        row += _asr_pair(seeds, best[source, target], text)
                rows.append(row)
        blocks.append(Block(header, rows))
    return blocks


def _by_group(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells of each group, in the suite's order; a source of no group is one of its own."""
    suite = list(cells[0].suite.groups.values())

    def place(cell: Cell) -> int:
        return next((i for i, g in enumerate(suite) if cell.sources[0] in g.networks), len(suite))

    grouped: dict[tuple[int, str], list[Cell]] = {}
    for cell in sorted(cells, key=place):
        i = place(cell)
        grouped.setdefault((i, cell.sources[0] if i == len(suite) else ""), []).append(cell)
    return list(grouped.values())


def _asr_pair(mine: pd.DataFrame, best: float, text: Text) -> list[str]:
    """The two columns of a target: ours with its interval, the paper's with the difference.

    `mine` has a row per seed; `best` is the highest mean of any attack.
    """
    paper = mine["paper"].iloc[0]
    printed = text.plain(NO_RUN) if paper != paper else f"{paper:.2f}"
    if mine["asr"].isna().any():
        return ["n = 0" if mine["run"].all() else text.plain(NO_RUN), printed]
    asr = mine["asr"].mean()
    value = f"{asr:.1f}"
    if asr >= best - 1e-9:
        value = text.bold.format(value)
    if mine["white_box"].iloc[0]:
        value += text.star
    if len(mine) > 1:
        value += text.plain(f" ± {mine['asr'].std():.1f}")
    else:
        value += f" [{mine['low'].iloc[0]:.1f}, {mine['high'].iloc[0]:.1f}]"
    gap = "" if paper != paper else f" ({asr - paper:+.1f})"
    return [value, printed + gap]


def _amp_blocks(cells: Sequence[Cell], frame: pd.DataFrame, text: Text) -> list[Block]:
    """Table 3: a row per norm and attack, a column per definition of size.

    The difference to the paper is that of the relative norm, the only definition under which all
    of the printed values are possible (docs/design.md, "Table 3").
    """
    header = ["Norm", "Attack", *map(text.plain, SIZES.values()), "paper (diff.)", "n"]
    rows = []
    for norm in dict.fromkeys(c.config.norm.name for c in cells):
        attacks = {c.config.attack.name: c for c in cells if c.config.norm.name == norm}
        for i, (attack, cell) in enumerate(attacks.items()):
            mine = frame[(frame["norm"] == norm) & (frame["attack"] == attack)]
            eps = f"{norm_title(norm)} = {cell.config.eps:g}"
            row = ["" if i else text.plain(eps), text.plain(cell.config.attack.title)]
            row += [text.plain(_mean(mine[key])) for key in SIZES]
            paper, gap = mine["paper"].iloc[0], mine["rel_l2"].mean(skipna=False)
            printed = text.plain(NO_RUN) if paper != paper else f"{paper:.3f}"
            printed += "" if paper != paper or gap != gap else f" ({gap - paper:+.4f})"
            row += [printed, str(int(mine["n"].sum()))]
            rows.append(row)
    return [Block(header, rows)]


def _mean(values: pd.Series[float]) -> str:
    """Mean over seeds, with the spread where there are several."""
    if values.isna().any():
        return NO_RUN
    spread = f" ± {values.std():.4f}" if len(values) > 1 else ""
    return f"{values.mean():.4f}{spread}"


def setting(cells: Sequence[Cell]) -> list[str]:
    """What a reader must know to read any table of these cells."""
    c, cell = cells[0].config, cells[0]
    runs = [run for x in cells if (run := Records(x.folder).run())]
    notes = [cell.suite.notice] if cell.suite.notice else []
    steps = "/".join(map(str, sorted({x.config.steps for x in cells})))
    seeds = sorted({x.config.seed for x in cells})
    seed = (
        f"seed {seeds[0]}" if len(seeds) == 1 else f"mean ± standard deviation over seeds {seeds}"
    )
    notes.append(
        f"{c.n_images} images at most per cell, select={c.select}, T={steps}, "
        f"quantize={c.quantize}, {seed}"
    )
    modes = {x.config.ensemble for x in cells if len(x.sources) > 1}
    if modes:
        notes.append(f"ensembles average their members' {' or '.join(sorted(modes))}")
    changed = {word for x in cells for word in x.attack_words}
    if changed:
        notes.append(f"attacks changed by {' '.join(sorted(changed))}")
    scaled = {
        f"{x.config.eps:g} → {x.eps_effective:.1f} at {x.geometry.size} px"
        for x in cells
        if x.eps_scale != 1
    }
    if scaled:
        notes.append(f"L2 budgets are scaled to the image's size: {', '.join(sorted(scaled))}")
    bad = {image for run in runs for image in run.get("bad_images", {})}
    if bad:
        notes.append(f"{len(bad)} missing or corrupt images left out: {', '.join(sorted(bad)[:5])}")
    notes += _numeric_notes([run["numeric"] for run in runs if "numeric" in run])
    narrowed = [run["name"] for run in runs if "narrowed" in run]
    if narrowed:
        notes.append(f"memory ran out and slots were halved in {', '.join(narrowed)}")
    gaps = [
        abs(rates["asr"] - rates["asr_fp32"])
        for run in runs
        for rates in run.get("against_fp32", {}).get("targets", {}).values()
    ]
    if gaps:
        n = max(run["against_fp32"]["images"] for run in runs if "against_fp32" in run)
        notes.append(
            f"precision={c.precision}: on {n} images of a cell, ASR is at most {max(gaps):.1f} "
            "points from that in fp32"
        )
    return notes


def _numeric_notes(identities: Sequence[dict[str, Any]]) -> list[str]:
    """A line where cells don't have one numeric identity; of networks where they share some."""
    own = {str({k: v for k, v in i.items() if k != "networks"}) for i in identities}
    tunings: dict[str, set[str]] = {}
    for identity in identities:
        for name, tuning in identity.get("networks", {}).items():
            tunings.setdefault(name, set()).add(str(tuning))
    if len(own) < 2 and all(len(found) == 1 for found in tunings.values()):
        return []
    return ["the cells were run under different numeric identities (see their run.json)"]


def _asr_notes(cells: Sequence[Cell], frame: pd.DataFrame) -> list[str]:
    c = cells[0].config
    counts = frame[frame["run"]]["n"]
    n = f", n from {counts.min()} to {counts.max()}" if counts.nunique() > 1 else ""
    intervals = "" if frame["seed"].nunique() > 1 else "; brackets: 95 % Wilson interval"
    notes = [
        f"denominator={c.denominator}{n}, success={cells[0].success}{intervals}",
        "* white-box; bold: highest of its source and target; — no run, or not printed",
        "paper: what the AGR paper prints, and ours less it",
    ]
    for cell in cells:
        if cell.smallest and (rows := selected(cell)) is not None:
            notes.append(
                f"{cell.config.attack.title} on {cell.title(cell.source)}: {needed(cell, rows)}"
            )
    return notes + wrong_when_clean(cells, frame) + all_unanswered(cells, frame)


def wrong_when_clean(cells: Sequence[Cell], frame: pd.DataFrame) -> list[str]:
    """A line that names the targets that aren't right about every image counted, if there are."""
    wrong = frame[frame["clean"] < 100].groupby("target")["clean"].min()
    if wrong.empty:
        return []
    titles = {t: cell.title(t) for cell in cells for t in cell.targets}
    said = ", ".join(f"{titles[str(t)]} {least:.1f} %" for t, least in wrong.items())
    return [
        f"right about fewer than all of these images when clean: {said} (the lowest of any "
        "source); denominator=target-correct leaves the others out"
    ]


def unanswered(title: str, silent: int, n: int) -> list[str]:
    """A line that says of how many adversarial images a network said nothing, if there are any."""
    if not silent:
        return []
    return [
        f"{title} gave no finite answer (NaN) for {silent} of {n} adversarial images: they count "
        "as not fooled"
    ]


def all_unanswered(cells: Sequence[Cell], frame: pd.DataFrame) -> list[str]:
    """The lines of `unanswered` for all targets of a table."""
    titles = {t: cell.title(t) for cell in cells for t in cell.targets}
    sums = frame.groupby("target")[["silent", "n"]].sum()
    said = [unanswered(titles[str(t)], int(r["silent"]), int(r["n"])) for t, r in sums.iterrows()]
    return [line for lines in said for line in lines]


def missing(cells: Sequence[Cell], frame: pd.DataFrame) -> list[str]:
    """The commands that fill the gaps."""
    return [f"missing: {command}" for command in frame[~frame["run"]]["command"].unique()]


def closing(cell: Cell) -> str:
    """The table that ends a run: every target of one cell."""
    frame = selected(cell)
    if frame is None or frame.empty:
        i, k = cell.shard
        if not any(map(cell.mine, range(cell.config.n_images))):
            return (
                f"shard={i}/{k} has none of the {cell.config.n_images} images: they are attacked "
                f"{cell.chunk} at a time, so use fewer shards"
            )
        return "no finished images yet"
    rows, silent = [], []
    for target in cell.targets:
        r = rate(cell, target, frame)
        silent += unanswered(cell.title(target), r["silent"], r["n"])
        star = " *" if r["white_box"] else ""
        told = [f"{r['asr']:.1f}", f"[{r['low']:.1f}, {r['high']:.1f}]", f"{r['clean']:.1f}"]
        told = told if r["n"] else [NO_RUN] * 3
        rows.append([cell.title(target) + star, *told, r["n"]])
    images = frame.drop_duplicates("image_id")
    header = ["target", "ASR %", "95 % interval", "right when clean %", "images"]
    table = tabulate(rows, header, tablefmt="simple", disable_numparse=True)
    star = "* white-box · " if any(map(cell.white_box, cell.targets)) else ""
    taken = images["steps_used"].mean()  # another library doesn't say
    steps = "" if pd.isna(taken) else f"mean steps {taken:.2f} · "
    sums = (
        f"{star}{steps}"
        f"‖v‖₂/‖x‖₂ {images['rel_l2'].mean():.4f} · mean |v| {images['mean_abs'].mean():.4f} · "
        f"cosine {images['cosine'].mean():.5f}"
    )
    run, n = Records(cell.folder).run() or {}, cell.config.n_images
    eligible = run.get("eligible", n)
    extra = [f"{eligible} of {n} images: no more are eligible"] if eligible < n else []
    extra += [needed(cell, frame)] if cell.smallest else []
    extra += silent
    bad = run.get("bad_images", {})
    extra += [f"{len(bad)} missing or corrupt images left out: {', '.join(bad)}"] if bad else []
    extra += [compared(cell, run["against_fp32"])] if "against_fp32" in run else []
    return "\n".join([table, sums, *map(printable, extra)])
