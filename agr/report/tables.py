"""The paper's Tables 1-3 from records: Markdown, LaTeX and CSV. Needs neither torch nor timm.

A table shows the cells of one sweep, found by their identity, so numbers of another eps, seed,
step count or attack can't slip in. A cell that is missing or unfinished is "—", with the command
that fills it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from jinja2 import Environment
from tabulate import tabulate

from agr.config import PACKAGE, Cell, ConfigError
from agr.records import Records
from agr.report.statistics import wilson
from agr.todo import todo, wanted_positions

NUMBER_OF = {"linf": 1, "l2": 2}
PAPER_SOURCE_OF_TABLE_3 = "inc_v3"
SIZES = {
    "rel_l2": "‖v‖₂/‖x‖₂",
    "mean_abs": "mean |v|, [0,1]",
    "mean_abs_sym": "mean |v|, [-1,1]",
}
NO_RUN = "—"

LATEX = Environment(
    block_start_string="<%", block_end_string="%>", variable_start_string="<<",
    variable_end_string=">>", trim_blocks=True, lstrip_blocks=True, autoescape=False,
).from_string(r"""% needs \usepackage{booktabs}
\begin{table}
\centering
\footnotesize
\caption{<< caption >>}
\begin{tabular}{ll<< "r" * (blocks[0].header | length - 2) >>}
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
\end{tabular}
\\[2pt] \parbox{\linewidth}{\scriptsize << notes | join(" \\\\ ") >>}
\end{table}
""")  # fmt: skip


class Text(NamedTuple):
    """How a table's pieces look in one format."""

    bold: str
    star: str
    escape: bool


MARKDOWN = Text(bold="**{}**", star=r"\*", escape=False)
TEX = Text(bold=r"\textbf{{{}}}", star="$^{*}$", escape=True)


class Block(NamedTuple):
    """One group of networks: a header and rows of text."""

    header: list[str]
    rows: list[list[str]]


# ---- numbers -------------------------------------------------------------------------------------


def rates(cells: Sequence[Cell]) -> pd.DataFrame:
    """ASR of every cell and target, long: one row per (norm, source, attack, target, seed).

    Columns: table norm eps source attack target white_box seed n successes asr low high (percent)
    paper difference command; asr to high are NaN where there is no finished run.
    """
    printed = pd.read_csv(PACKAGE / "assets" / "paper" / "asr.csv")
    keys = ["norm", "source", "attack", "target"]
    paper = printed.set_index(keys)["asr_percent"].to_dict()
    found = []
    for cell in cells:
        frame = selected(cell)
        for target in cell.targets:
            row = _rate(cell, target, frame)
            row["paper"] = paper.get(tuple(row[k] for k in keys), float("nan"))
            found.append(row)
    frame = pd.DataFrame(found)
    frame["difference"] = frame["asr"] - frame["paper"]
    if frame.duplicated([*keys, "seed"]).any():
        twice = frame[frame.duplicated([*keys, "seed"])].iloc[0]
        raise ConfigError(
            f"a table holds one cell for {twice['attack']} {twice['norm']} on {twice['source']}, "
            "the sweep has several: give one eps, steps, … (only seeds may be several)"
        )
    return frame


def selected(cell: Cell) -> pd.DataFrame | None:
    """The rows that a finished cell's config asks for, or None if it isn't finished."""
    records = Records(cell.folder)
    if records.run() is None:
        return None
    wanted = wanted_positions(cell, records)
    lost = set((records.run() or {}).get("lost", []))
    if any(missing - lost for missing in todo(cell, records, wanted).rows.values()):
        return None
    rows = records.read("rows")
    return rows[rows["position"].isin(wanted) & rows["target"].isin(cell.targets)]


def _rate(cell: Cell, target: str, frame: pd.DataFrame | None) -> dict[str, object]:
    c = cell.config
    row: dict[str, object] = {
        "table": NUMBER_OF[c.norm.name], "norm": c.norm.name, "eps": c.eps, "source": cell.source,
        "attack": c.attack.name, "target": target, "white_box": target == cell.source,
        "seed": c.seed, "n": 0, "successes": 0, "asr": float("nan"), "low": float("nan"),
        "high": float("nan"), "command": cell.command(),
    }  # fmt: skip
    if frame is None:
        return row
    counted = count(frame, target, c.denominator)
    n, successes = len(counted), int(counted["success"].sum())
    low, high = wilson(successes, n)
    asr = 100 * successes / n if n else float("nan")
    return row | {"n": n, "successes": successes, "asr": asr, "low": 100 * low, "high": 100 * high}


def count(frame: pd.DataFrame, target: str, denominator: str) -> pd.DataFrame:
    """The rows of a target that a denominator counts.

    "all": every image. "target-correct": those that the target has right when clean.
    "all-correct": those that every target of the frame and the source have right.
    """
    rows = frame[frame["target"] == target]
    if denominator == "target-correct":
        return rows[rows["clean_pred"] == rows["label"]]
    if denominator == "all-correct":
        right = (frame["clean_pred"] == frame["label"]) & (
            frame["source_clean_pred"] == frame["label"]
        )
        everyone = right.groupby(frame["image_id"]).all()
        return rows[rows["image_id"].map(everyone)]
    return rows


def sizes(cells: Sequence[Cell]) -> pd.DataFrame:
    """Mean size of the perturbations (Table 3): one row per cell, NaN where there is no run."""
    printed = pd.read_csv(PACKAGE / "assets" / "paper" / "amp.csv")
    paper = printed.set_index(["source", "attack", "norm"])["amp"].to_dict()
    found = []
    for cell in cells:
        c = cell.config
        row: dict[str, object] = {
            "source": cell.source, "attack": c.attack.name, "norm": c.norm.name, "eps": c.eps,
            "seed": c.seed, "n": 0, "command": cell.command(),
        }  # fmt: skip
        frame = selected(cell)
        if frame is not None:
            images = frame.drop_duplicates("image_id")
            row["n"] = len(images)
            row |= {k: images[k].mean() for k in ("rel_l2", "mean_abs", "cosine", "steps_used")}
            row["mean_abs_sym"] = 2 * images["mean_abs"].mean()  # [-1, 1] is twice as wide
        row["paper"] = paper.get((cell.source, c.attack.name, c.norm.name), float("nan"))
        found.append(row)
    frame = pd.DataFrame(found)
    return frame.reindex(columns=[*frame.columns, *(set(SIZES) - set(frame.columns))])


# ---- text ----------------------------------------------------------------------------------------


def write_tables(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Render the tables of a sweep's cells into `folder`; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    asr, amp = rates(cells), sizes(cells)
    written = []
    for norm, number in NUMBER_OF.items():
        mine = [c for c in cells if c.config.norm.name == norm]
        if mine:
            part = asr[asr["norm"] == norm]
            caption = f"Table {number}: ASR (%) under the {_norm_title(norm)} norm"
            written += _write(folder, f"table{number}", caption, part, mine, _asr_blocks)
    mine = [c for c in cells if c.source == PAPER_SOURCE_OF_TABLE_3]
    if mine:
        part = amp[amp["source"] == PAPER_SOURCE_OF_TABLE_3]
        caption = f"Table 3: size of the perturbations crafted on {_title(mine[0], mine[0].source)}"
        written += _write(folder, "table3", caption, part, mine, _amp_blocks)
    return written


def _write(folder, stem, caption, frame, cells, blocks) -> list[Path]:  # type: ignore[no-untyped-def]
    notes = footnotes(cells, frame)
    texts = {
        "md": _markdown(caption, blocks(cells, frame, MARKDOWN), notes),
        "tex": LATEX.render(
            caption=_tex(caption), blocks=blocks(cells, frame, TEX), notes=[_tex(n) for n in notes]
        ),
        "csv": frame.to_csv(index=False),
    }
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"{stem}.{suffix}")
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def _markdown(caption: str, blocks: list[Block], notes: list[str]) -> str:
    tables = [tabulate(b.rows, b.header, tablefmt="pipe", disable_numparse=True) for b in blocks]
    return "\n\n".join([f"**{caption}**", *tables, "\n".join(f"- {n}" for n in notes)]) + "\n"


def _asr_blocks(cells: Sequence[Cell], frame: pd.DataFrame, text: Text) -> list[Block]:
    """One block per group: a row per source and attack, two columns per target."""
    blocks = []
    for group in cells[0].suite.groups.values():
        mine = [c for c in cells if c.source in group.networks]
        if not mine:
            continue
        targets = list(dict.fromkeys(t for c in mine for t in c.targets))
        header = ["Source", "Attack"]
        for target in targets:
            header += [_title(mine[0], target), "paper (diff.)"]
        rows = []
        for source in dict.fromkeys(c.source for c in mine):
            attacks = {c.config.attack.name: c for c in mine if c.source == source}
            for i, (attack, cell) in enumerate(attacks.items()):
                row = ["" if i else _title(cell, source), _plain(cell.config.attack.title, text)]
                for target in targets:
                    row += _asr_pair(frame, source, attack, target, text)
                rows.append(row)
        blocks.append(Block(header, rows))
    return blocks


def _asr_pair(frame: pd.DataFrame, source: str, attack: str, target: str, text: Text) -> list[str]:
    """The two columns of a target: ours with its interval, the paper's with the difference."""
    pair = frame[(frame["source"] == source) & (frame["target"] == target)]
    mine = pair[pair["attack"] == attack]
    if mine.empty:
        return [NO_RUN, NO_RUN]
    paper = mine["paper"].iloc[0]
    printed = NO_RUN if paper != paper else f"{paper:.2f}"
    if mine["asr"].isna().any():
        return [NO_RUN, printed]
    means = pair.groupby("attack")["asr"].mean()
    asr = mine["asr"].mean()
    value = f"{asr:.1f}"
    if asr >= means.max() - 1e-9:
        value = text.bold.format(value)
    if mine["white_box"].iloc[0]:
        value += text.star
    if len(mine) > 1:
        value += f" ± {mine['asr'].std():.1f}"
    else:
        value += f" [{mine['low'].iloc[0]:.1f}, {mine['high'].iloc[0]:.1f}]"
    gap = "" if paper != paper else f" ({asr - paper:+.1f})"
    return [_plain(value, text), printed + gap]


def _amp_blocks(cells: Sequence[Cell], frame: pd.DataFrame, text: Text) -> list[Block]:
    """Table 3: a row per norm and attack, a column per definition of size."""
    header = ["Norm", "Attack", *(_plain(s, text) for s in SIZES.values()), "paper", "n"]
    rows = []
    for norm in dict.fromkeys(c.config.norm.name for c in cells):
        attacks = {c.config.attack.name: c for c in cells if c.config.norm.name == norm}
        for i, (attack, cell) in enumerate(attacks.items()):
            mine = frame[(frame["norm"] == norm) & (frame["attack"] == attack)]
            eps = f"{_norm_title(norm)} = {cell.config.eps:g}"
            row = ["" if i else _plain(eps, text), _plain(cell.config.attack.title, text)]
            row += [_mean(mine[key]) for key in SIZES]
            paper = mine["paper"].iloc[0]
            row += [NO_RUN if paper != paper else f"{paper:.3f}", str(int(mine["n"].sum()))]
            rows.append(row)
    return [Block(header, rows)]


def _mean(values: pd.Series[float]) -> str:
    """Mean over seeds, with the spread where there are several."""
    if values.isna().any():
        return NO_RUN
    spread = f" ± {values.std():.4f}" if len(values) > 1 else ""
    return f"{values.mean():.4f}{spread}"


def footnotes(cells: Sequence[Cell], frame: pd.DataFrame) -> list[str]:
    """What a reader must know to read a table, and the commands for what is missing."""
    c, cell = cells[0].config, cells[0]
    runs = [run for x in cells if (run := Records(x.folder).run())]
    notes = [cell.suite.notice] if cell.suite.notice else []
    seeds = sorted({x.config.seed for x in cells})
    many = len(seeds) > 1
    notes.append(
        f"{c.n_images} images at most per cell, select={c.select}, denominator={c.denominator}, "
        f"success={cell.success}, T={c.steps}, quantize={c.quantize}; "
        + (f"mean ± standard deviation over seeds {seeds}" if many else f"seed {seeds[0]}; ")
        + ("" if many else "brackets: 95 % Wilson interval")
    )
    if "white_box" in frame:
        notes.append("* white-box; bold: highest of the source and target; — no run")
    scaled = {f"{x.config.eps:g} → {x.eps_effective:.1f}" for x in cells if _is_scaled(x)}
    if scaled:
        notes.append(f"L2 budgets are scaled to the image's size: {', '.join(sorted(scaled))}")
    bad = {image for run in runs for image in run.get("bad_images", {})}
    if bad:
        notes.append(f"{len(bad)} missing or corrupt images left out: {', '.join(sorted(bad)[:5])}")
    if len({str(run.get("numeric")) for run in runs}) > 1:
        notes.append("the cells were run under different numeric identities (see their run.json)")
    empty = frame[frame["n"] == 0]["command"].drop_duplicates().tolist()
    notes += [f"missing: {command}" for command in empty]
    return notes


def closing(cell: Cell) -> str:
    """The table that ends a run: every target of one cell."""
    frame = selected(cell)
    if frame is None:
        return "no finished images yet"
    rows = []
    for target in cell.targets:
        r = _rate(cell, target, frame)
        interval = f"[{r['low']:.1f}, {r['high']:.1f}]"
        star = " *" if r["white_box"] else ""
        rows.append([_title(cell, target) + star, f"{r['asr']:.1f}", interval, r["n"]])
    images = frame.drop_duplicates("image_id")
    header = ["target", "ASR %", "95 % interval", "images"]
    table = tabulate(rows, header, tablefmt="simple", disable_numparse=True)
    sums = (
        f"* white-box · mean steps {images['steps_used'].mean():.2f} · "
        f"‖v‖₂/‖x‖₂ {images['rel_l2'].mean():.4f} · mean |v| {images['mean_abs'].mean():.4f} · "
        f"cosine {images['cosine'].mean():.5f}"
    )
    silent = int((frame["adv_pred"] < 0).sum())
    extra = [f"{silent} answers were not finite and count as not fooled"] if silent else []
    bad = (Records(cell.folder).run() or {}).get("bad_images", {})
    extra += [f"{len(bad)} missing or corrupt images left out: {', '.join(bad)}"] if bad else []
    return "\n".join([table, sums, *extra])


def _is_scaled(cell: Cell) -> bool:
    return abs(cell.eps_effective - cell.config.eps) > 1e-9


def _norm_title(norm: str) -> str:
    return {"linf": "L∞", "l2": "L2"}[norm]


def _title(cell: Cell, network: str) -> str:
    return cell.suite.networks[network].title or network


def _plain(value: str, text: Text) -> str:
    return _tex(value) if text.escape else value


def _tex(value: str) -> str:
    """Plain text for LaTeX; markup that this module made itself is left alone."""
    signs = {"%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "∞": r"$_\infty$", "—": "---"}
    signs |= {"±": r"$\pm$", "→": r"$\to$", "‖": r"$\|$", "₂": "$_2$", "·": r"$\cdot$"}
    signs |= {"|v|": "$|v|$"}
    for sign, tex in signs.items():
        value = value.replace(sign, tex)
    return value
