"""The description of a data set for machines: Croissant 1.1, with the fields of its RAI extension.

https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from agr.report.dataset.tables import Written

CONFORMS_TO = [
    "http://mlcommons.org/croissant/1.1",
    "http://mlcommons.org/croissant/RAI/1.0",
]
# Croissant's own terms; the others are those of schema.org.
TERMS = (
    "arrayShape citeAs column containedIn equivalentProperty extract field fileProperty fileObject "
    "fileSet format includes isArray isLiveDataset jsonPath key md5 parentField path recordSet "
    "references regex repeated replace samplingRate separator source subField transform"
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "name": {"@container": "@language"},
    "description": {"@container": "@language"},
    "data": {"@id": "cr:data", "@type": "@json"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    **{term: f"cr:{term}" for term in TERMS.split()},
}
DATA_TYPES = {
    pa.string(): "sc:Text",
    pa.bool_(): "sc:Boolean",
    pa.int32(): "sc:Integer",
    pa.int64(): "sc:Integer",
    pa.float32(): "sc:Float",
    pa.float64(): "sc:Float",
}


class About(NamedTuple):
    """A data set's name, licence, citation and description, for its card and Croissant file."""

    repo: str  # owner/name, on the Hub
    license: str
    version: str
    date: str  # ISO 8601
    title: str
    description: str
    keywords: Sequence[str]
    citation: str  # BibTeX
    rai: Mapping[str, str | Sequence[str]]  # fields of the RAI extension

    @property
    def url(self) -> str:
        """Page of the data set on the Hub."""
        return f"https://huggingface.co/datasets/{self.repo}"


def croissant(about: About, tables: Sequence[Written], folder: Path) -> dict[str, Any]:
    """Return the Croissant file of the tables that were written below `folder`."""
    owner = about.repo.partition("/")[0]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": about.title,
        "description": about.description,
        "url": about.url,
        "license": about.license,
        "version": about.version,
        "datePublished": about.date,
        "citeAs": about.citation,
        "keywords": list(about.keywords),
        "creator": {
            "@type": "Organization", "name": owner, "url": f"https://huggingface.co/{owner}"
        },
        **{f"rai:{name}": value for name, value in about.rai.items()},
        "distribution": [_file(table, folder) for table in tables],
        "recordSet": [_record_set(table) for table in tables],
    }  # fmt: skip


def _file(table: Written, folder: Path) -> dict[str, Any]:
    path = folder / table.path
    with path.open("rb") as f:
        sha256 = hashlib.file_digest(f, "sha256").hexdigest()
    return {
        "@type": "cr:FileObject",
        "@id": table.path,
        "name": path.name,
        "description": table.about,
        "contentUrl": table.path,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": sha256,
    }


def _record_set(table: Written) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": table.name,
        "name": table.name,
        "description": table.about,
        "key": [{"@id": f"{table.name}/{name}"} for name in table.key],
        "field": [_field(table, column) for column in table.schema],
    }


def _field(table: Written, column: pa.Field) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{table.name}/{column.name}",
        "name": column.name,
        "description": meaning(column),
        "dataType": DATA_TYPES[column.type],
        "source": {"fileObject": {"@id": table.path}, "extract": {"column": column.name}},
    }


def meaning(column: pa.Field) -> str:
    """Return a column's meaning, with its unit."""
    said, unit = (column.metadata[key].decode() for key in (b"meaning", b"unit"))
    return f"{said} [{unit}]" if unit else said
