"""The five sentences that a report opens with: what a run says about its attacks.

Every number is of the records. An attack counts once its cells of a norm are finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from agr.report.claims.judge import CONTRADICTED, INCOMPLETE, SUPPORTED
from agr.report.claims.page import Verdicts
from agr.report.claims.spec import PAPER
from agr.report.claims.wording import UNDECIDED, Compared, interval_words, p_words
from agr.report.outcomes import Outcomes, Place
from agr.report.rates import NAN, budget_title
from agr.report.statistics import LEVEL
from agr.report.transfer import success_shares, white_box_rate
from agr.utils.text import plural

MOST_NAMED = 3  # attacks in one list
JUDGED = (SUPPORTED, CONTRADICTED, UNDECIDED, INCOMPLETE)
QUESTIONS = {
    "white-box": "Best in white-box",
    "transfer": "Best transfer",
    "cost": "At equal cost",
    "apart": "What can't be told apart",
    "claims": "The paper's claims",
}


class Standing(NamedTuple):
    """An attack's means over all its sources: percent, and gradients per image."""

    title: str
    attack: str
    white_box: float  # NaN without a white-box target
    white_box_interval: tuple[float, float]
    transfer: float  # NaN without a black-box target
    gradients: float  # NaN where they aren't known
    plain: bool  # it has no stop and takes all T steps, a gradient at least for each
    steps: int  # T


class Field(NamedTuple):
    """Attacks under one norm: their standings, and how every two of them differ in transfer."""

    budget: str  # "L∞ = 10"
    standings: list[Standing]
    compared: Sequence[Compared]
    unfinished: list[str]  # titles


def answers(
    outcomes: Outcomes, transfers: Mapping[str, Sequence[Compared]], verdicts: Verdicts
) -> dict[str, str]:
    """Return a sentence for each of QUESTIONS, with a part for each norm.

    Args:
        outcomes: the cells.
        transfers: the `transfer_differences` of each norm.
        verdicts: on the paper's claims.
    """
    fields = [_field(outcomes, norm, compared) for norm, compared in transfers.items()]
    parts = {"white-box": _white_box, "transfer": _transfer, "cost": _cost, "apart": _apart}
    said = {
        key: " ".join(f"{field.budget}: {part(field)}." for field in fields)
        for key, part in parts.items()
    }
    left_out = [f"{listed(f.unfinished)} ({f.budget})" for f in fields if f.unfinished]
    if left_out:
        said["white-box"] += (
            f" Not finished, and in none of these sentences: {'; '.join(left_out)}."
        )
    return said | {"claims": _claims(verdicts)}


def listed(titles: Sequence[str]) -> str:
    """Return titles as a list in words: "A, B and C", or "A, B, C and 4 others"."""
    most = MOST_NAMED if len(titles) > MOST_NAMED + 1 else len(titles)
    shown = [*titles[:most], *([f"{len(titles) - most} others"] * (most < len(titles)))]
    comma = "; " if any("," in title for title in titles) else ", "
    return " and ".join([comma.join(shown[:-1]), *shown[-1:]] if len(shown) > 1 else shown)


def _field(outcomes: Outcomes, norm: str, compared: Sequence[Compared]) -> Field:
    """Read the standings of a norm's attacks."""
    names = outcomes.titles()
    places: dict[str, list[Place]] = {}
    for place in outcomes.places("none"):
        if place.norm == norm:
            places.setdefault(place.attack, []).append(place)
    finished = {
        attack: mine for attack, mine in places.items() if all(map(outcomes.is_finished, mine))
    }
    first = next(iter(places.values()))[0]
    standings = [_standing(outcomes, mine, names[attack]) for attack, mine in finished.items()]
    mine = [c for c in compared if {c.left.attack, c.right.attack} <= finished.keys()]
    unfinished = [names[attack] for attack in places if attack not in finished]
    return Field(budget_title(outcomes.cell(first)), standings, mine, unfinished)


def _standing(outcomes: Outcomes, places: Sequence[Place], title: str) -> Standing:
    cells = [(outcomes.cell(place), outcomes.frame(place)) for place in places]
    transfer = pd.concat([success_shares(*each, white_box=False) for each in cells])
    white_box, low, high = white_box_rate(cells)
    spent = pd.concat([frame.drop_duplicates("image_id")["backwards"] for _, frame in cells])
    gradients, c = float(spent.astype(float).mean()), cells[0][0].config
    return Standing(
        title,
        c.attack.name,
        100 * white_box,
        (100 * low, 100 * high),
        100 * float(transfer.mean()),
        gradients,
        c.attack.stop is None and gradients >= c.steps,
        c.steps,
    )


def _best(values: Mapping[str, float]) -> list[str]:
    """Return the titles with the highest value; none if no value is known."""
    known = {title: value for title, value in values.items() if value == value}
    highest = max(known.values(), default=NAN)
    return [title for title, value in known.items() if value >= highest - 1e-9]


def _white_box(field: Field) -> str:
    if not field.standings:
        return "no attack is finished"
    best = _best({s.title: s.white_box for s in field.standings})
    if not best:
        return "no source is among the targets"
    s = next(s for s in field.standings if s.title == best[0])
    low, high = s.white_box_interval
    rate = f"{s.white_box:.1f} % [{low:.1f}, {high:.1f}]"
    if len(field.standings) == 1:
        return f"{s.title}, the only attack, succeeds on its own source with {rate} of the images"
    if len(best) == len(field.standings):
        return f"{_all(len(best))} attacks succeed on their source with {rate} of the images"
    if len(best) > 1:
        return f"{listed(best)} succeed most often on their source, with {rate} of the images each"
    return f"{s.title} succeeds most often on its source, with {rate} of the images"


def _transfer(field: Field) -> str:
    known = [s for s in field.standings if s.transfer == s.transfer]
    if not known:
        return "no attack is finished that was scored on a black-box target"
    order = sorted(known, key=lambda s: -s.transfer)
    best = _best({s.title: s.transfer for s in order})
    rate = f"{order[0].transfer:.1f} %"
    if len(known) == 1:
        return f"{best[0]} alone was run; its mean transfer is {rate}"
    if len(best) == len(known):
        return f"{_all(len(known))} attacks have a mean transfer of {rate}"
    if len(best) > 1:
        return f"{listed(best)} transfer best, {rate} on average each"
    said = f"{best[0]} transfers best, {rate} on average"
    c = next((c for c in field.compared if _sides(c) == {order[0].attack, order[1].attack}), None)
    if c is None:
        return said
    said += f", {c.difference:.1f} points {interval_words(c)} more than the next, {order[1].title}"
    if c.p_holm < LEVEL:
        return f"{said} (p {p_words(c.p_holm)})"
    return f"{said}, which may be chance (p {p_words(c.p_holm)})"


def _cost(field: Field) -> str:
    """Say which attack transfers best for a plain attack's gradients.

    That is as many as the cheapest attack without a stop spends on an image, and T where every
    attack stops: nobody who runs T steps pays less.
    """
    known = [s for s in field.standings if s.transfer == s.transfer and s.gradients == s.gradients]
    if len(known) < 2:
        return "there are no two attacks whose gradients are known"
    plain = min((s for s in known if s.plain), key=lambda s: s.gradients, default=None)
    most = plain.gradients if plain else float(max(s.steps for s in known))
    who = f"what {plain.title} spends" if plain else "one for each of T steps"
    within = [s for s in known if s.gradients <= most + 1e-9]
    if not within:
        return f"no attack spends at most {most:g} gradients per image ({who})"
    best = _best({s.title: s.transfer for s in within})
    s = next(s for s in within if s.title == best[0])
    those = f"of the {len(within)} attacks that spend"
    if len(within) == len(known):
        those = f"{_all(len(known))} attacks spend"
    elif len(within) == 1:
        those = "one attack spends"
    said = (
        f"{those} at most {most:.3g} gradients per image ({who})"
        f"{', ' if len(within) > 1 and within != known else ': '}"
        f"{listed(best)} {'transfer' if len(best) > 1 else 'transfers'} best, {s.transfer:.1f} % "
        f"with {s.gradients:.3g}"
    )
    top = max(known, key=lambda s: s.transfer)
    if top.transfer > s.transfer + 1e-9:
        said += f"; {top.title} gets {top.transfer:.1f} % with {top.gradients:.3g}"
    return said


def _apart(field: Field) -> str:
    pairs = field.compared
    if not pairs:
        return "there are no two attacks to compare"
    alike = [c for c in pairs if c.p_holm >= LEVEL]
    best = max(field.standings, key=lambda s: s.transfer if s.transfer == s.transfer else -1)
    titles = {s.attack: s.title for s in field.standings}
    equal = [
        titles[other]
        for c in alike
        if best.attack in _sides(c)
        for other in _sides(c) - {best.attack}
    ]
    count = f"{len(alike) or 'none'} of {plural(len(pairs), 'pair')} of attacks"
    said = f"{count} can't be told apart by mean transfer (5 %, Holm's correction)"
    if not alike:
        return said
    who = f"{listed(equal)} can't be told from it" if equal else "every other is worse"
    return f"{said}; the best is {best.title}: {who}"


def _all(n: int) -> str:
    return "both" if n == 2 else f"all {n}"


def _sides(c: Compared) -> set[str]:
    return {c.left.attack, c.right.attack}


def _claims(verdicts: Verdicts) -> str:
    printed = Counter(judged[PAPER].verdict for _, judged in verdicts.claims)
    said = (
        f"Of {plural(len(verdicts.claims), 'claim')}, the paper's own numbers support "
        f"{printed[SUPPORTED]} and contradict {printed[CONTRADICTED]}."
    )
    found: Counter[str] = Counter()
    for _, judged in verdicts.claims:
        asked = {judged[column].verdict for column in verdicts.columns if column != PAPER}
        asked &= {*JUDGED}
        if asked:
            found[asked.pop() if len(asked) == 1 else "mixed"] += 1
    if not found:
        return f"{said} No claim could be put to these records."
    rest = found.total() - found[SUPPORTED] - found[CONTRADICTED]
    return (
        f"{said} Of the {found.total()} that could be put to these records, every reading of the "
        f"attacks that was run supports {found[SUPPORTED]} and contradicts {found[CONTRADICTED]}; "
        f"the other {rest} are undecided or depend on the reading."
    )
