"""The ILSVRC2012 devkit: its ground truth, and its ids in the order of meta.mat."""

from __future__ import annotations

import io
import zlib
from pathlib import Path, PurePosixPath

from agr.data import tar
from agr.data.entries import NUMBER, SYNSET, RawLabels
from agr.data.snapshot import FileSnapshot, decode
from agr.utils.errors import ConfigError, first_line

DEVKIT, TRUTH, META = "ILSVRC2012_devkit_t12", "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
LARGEST_DEVKIT = 1 << 26  # bytes, unpacked; it has 8 MB


def read_devkit(path: Path, snapshot: FileSnapshot) -> RawLabels:
    """Read the ground truth, with meta.mat beside it, or in a tar. Raises ConfigError."""
    if path.name == TRUTH:
        return parse_devkit(snapshot.text(path), snapshot.read(path.parent / META), path)
    files = unpack_devkit(snapshot.read(path), path)
    return parse_devkit(decode(files[TRUTH], path), files[META], path)


def parse_devkit(truth: str, meta: bytes, path: Path) -> RawLabels:
    """Parse the devkit's ground truth: line i is the ILSVRC id of image i. Raises ConfigError."""
    synsets = ilsvrc_ids(meta, path)
    words = {}
    for i, line in enumerate(truth.split(), 1):
        synset = synsets.get(int(line)) if NUMBER.fullmatch(line) else None
        if synset is None:
            raise ConfigError(
                f"{path} line {i}: {line!r} is not an ILSVRC id of {META}: copy it again"
            )
        words[f"ILSVRC2012_val_{i:08d}"] = synset
    return words


def ilsvrc_ids(meta: bytes, path: Path) -> dict[int, str]:
    """Map ILSVRC ids to synsets, from the content of meta.mat. Raises ConfigError.

    Only synsets without children are classes: the others are their groups in WordNet.
    """
    from scipy.io import loadmat

    try:
        rows = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        columns = (rows[name].tolist() for name in ("ILSVRC2012_ID", "WNID", "num_children"))
        leaves = {int(i): str(name) for i, name, below in zip(*columns, strict=True) if not below}
    except Exception as e:  # whatever scipy makes of bytes that are not such a file
        raise ConfigError(f"{path}: {META} cannot be read: {first_line(e)}: copy it again") from e
    return {i: name for i, name in leaves.items() if SYNSET.fullmatch(name)}


def unpack_devkit(content: bytes, path: Path) -> dict[str, bytes]:
    """Unpack TRUTH and META from the devkit's tar, in memory. Raises ConfigError."""
    try:
        if tar.packing(content) == "gzip":
            unpacker = zlib.decompressobj(wbits=31)  # 31: with gzip's header
            content = unpacker.decompress(content, LARGEST_DEVKIT)
            if not unpacker.eof:
                large = len(content) >= LARGEST_DEVKIT
                raise ValueError("unpacks to too much for a devkit" if large else "is cut off")
        files = {
            name: content[m.offset : m.offset + m.size]
            for m in tar.members(lambda at, size: content[at : at + size], len(content))
            if (name := PurePosixPath(m.name).name) in (TRUTH, META)
        }
    except zlib.error as e:
        raise ConfigError(f"{path} cannot be unpacked ({first_line(e)}): copy it again") from e
    except ValueError as e:
        raise ConfigError(f"{path} {first_line(e)}: copy it again") from e
    for name in (TRUTH, META):
        if name not in files:
            raise ConfigError(f"{path} has no {name} in it: give {DEVKIT}.tar.gz")
    return files
