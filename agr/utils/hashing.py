"""Short hashes, keyed draws and file-name slugs, the same in every process."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

DIGEST_LENGTH = 10
SLUG_LENGTH = 80  # bytes: names of files have 255, and one is made of several


def digest(value: Any) -> str:
    """Hash plain data into a few hex digits, the same in every process."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def draw(*key: object) -> int:
    """Draw a uniform 64-bit number that is a function of `key` alone."""
    text = ":".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def slug(name: str) -> str:
    """Turn a name into a part of a file's name: no separators, and not too long."""
    plain = re.sub(r"[^\w.+=,-]+", "_", name)
    if len(plain.encode()) <= SLUG_LENGTH:
        return plain
    return f"{plain.encode()[:SLUG_LENGTH].decode(errors='ignore')}-{digest(name)}"
