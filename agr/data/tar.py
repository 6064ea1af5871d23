"""Members of an uncompressed tar, read in place: nothing is ever extracted.

Members are walked header by header instead of with `tarfile.open`, which takes a damaged header in
the middle for the end of the tar, and does not end on a size below zero.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

Read = Callable[[int, int], bytes]  # (offset, size) -> at most `size` bytes from there

BLOCK = 512
END = bytes(BLOCK)
LONGEST_NAME = 1 << 20  # bytes of a header that holds a long name
NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
PASSED_OVER = (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE)
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
# No bytes follow, whatever the header says of a size.
LINKS_AND_FOLDERS = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE)
DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str  # as the tar has it: not to be trusted as a path
    offset: int  # of its first byte
    size: int  # bytes


def members(read: Read, end: int) -> Iterator[Member]:
    """Yield the regular files of an uncompressed tar of `end` bytes, in its order.

    Raises ValueError, with what is wrong and where, for a tar that is cut off or damaged; what was
    found before is not a whole list then.
    """
    at, name = 0, None
    while (block := read(at, BLOCK)) != END:
        header = _header(block, at)
        size = 0 if header.type in LINKS_AND_FOLDERS + DEVICES else header.size
        start = at + BLOCK
        if size < 0:
            raise ValueError(f"is damaged at byte {at:,}")
        if start + size > end:
            raise ValueError(
                f"is cut off: {header.name!r} ends at byte {start + size:,} of {end:,}"
            )
        at = start + -(-size // BLOCK) * BLOCK
        if header.type in NAMES:
            name = _long_name(header, read, start) or name
        elif header.type not in PASSED_OVER:
            if header.type == tarfile.GNUTYPE_SPARSE:
                raise ValueError(f"has the sparse member {header.name!r}: pack it without --sparse")
            if header.type in REGULAR:
                yield Member(name or header.name, start, size)
            name = None


def size_at(header: bytes) -> int | None:
    """Size of the regular file with this header (512 bytes); None if it is not such a header."""
    try:
        info = _header(header, 0)
    except ValueError:
        return None
    return info.size if info.type in REGULAR else None


def packing(start: bytes) -> str | None:
    """Compression of a file with these first bytes, or None."""
    return next((name for magic, name in PACKED.items() if start.startswith(magic)), None)


def _header(block: bytes, at: int) -> tarfile.TarInfo:
    if len(block) < BLOCK:
        raise ValueError(f"is cut off at byte {at + len(block):,}, before its end mark")
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, OverflowError) as e:
        raise ValueError(f"is damaged at byte {at:,}") from e


def _long_name(header: tarfile.TarInfo, read: Read, start: int) -> str | None:
    """Read the name of the next member from a header that holds it in its content."""
    if header.size > LONGEST_NAME:
        raise ValueError(f"is damaged at byte {start:,}: a name of {header.size:,} bytes")
    content = read(start, header.size)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return content.partition(b"\0")[0].decode("utf-8", "surrogateescape")
    return _pax_path(content, start)


def _pax_path(content: bytes, start: int) -> str | None:
    """Read the path of a pax header, which is a run of records '<length> <key>=<value>\\n'."""
    at, path = 0, None
    while at < len(content):
        length = re.match(rb"(\d{1,7}) ", content[at : at + 8])
        record = content[at : at + int(length[1])] if length else b""
        if not length or len(record) != int(length[1]) or not record.endswith(b"\n"):
            raise ValueError(f"is damaged at byte {start + at:,}")
        key, _, value = record[length.end() : -1].partition(b"=")
        if key == b"size" or key.startswith(b"GNU.sparse"):  # nothing that images need
            raise ValueError(f"has a pax header of {key!r} at byte {start:,}: pack it without")
        if key == b"path":
            path = value.decode("utf-8", "surrogateescape")
        at += len(record)
    return path
