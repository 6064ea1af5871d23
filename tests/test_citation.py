"""CITATION.cff is whole, and the README's BibTeX says the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from agr.utils.program import __version__

ROOT = Path(__file__).parent.parent
CFF: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text())
BIBTEX = re.compile(r"@\w+\{(\w+),\n((?:  \w+ += \{.*\},?\n)+)\}")


def entry(cited: dict[str, Any]) -> dict[str, str]:
    people = [
        f"{{{who['name']}}}" if "name" in who else f"{who['family-names']}, {who['given-names']}"
        for who in cited["authors"]
    ]
    known = {"author": " and ".join(people), "title": f"{{{cited['title']}}}"}
    known |= {key: cited[key] for key in ("version", "year", "doi", "url") if key in cited}
    return known


def test_the_bibtex_is_that_of_the_citation_file() -> None:
    readme = (ROOT / "README.md").read_text()
    found = {
        name: dict(re.findall(r"(\w+) += \{(.*)\}", body)) for name, body in BIBTEX.findall(readme)
    }
    assert found == {"agr": entry(CFF), "agr_paper": entry(CFF["references"][0])}


def test_the_citation_file_says_what_the_project_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert CFF["version"] == __version__
    assert CFF["license"] == project["license"]
    assert CFF["keywords"] == project["keywords"]
    assert CFF["authors"] == project["authors"]
    assert {"cff-version", "message", "title", "type", "abstract"} <= CFF.keys()
    paper = (ROOT / "conf" / "attack" / "agr.yaml").read_text().splitlines()[0]
    (reference,) = CFF["references"]
    names = ", ".join(author["family-names"] for author in reference["authors"])
    assert paper == f"# AGR. {names}: {reference['title']}."
