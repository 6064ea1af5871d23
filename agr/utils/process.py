"""Settings of this process that have to be made before torch is loaded."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
from contextlib import suppress

INTEL = "GenuineIntel"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def set_up_process() -> None:
    """Set variables that torch reads when it is loaded, and how often garbage is collected."""
    # torch and timm are a million objects. By default the collector looks through them so often
    # that it takes a quarter of the time until a command begins, and a tenth of a short run.
    gc.set_threshold(20_000, 20, 50)
    # OpenMP's threads wait by spinning, by default for so long that a busy machine runs many
    # times slower. A short spin costs an idle machine nothing.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    # On AMD's processors MKL's products depend on where in memory an image lies without it, so that
    # its bits would depend on its place in the batch.
    if cpu_vendor() not in ("", INTEL):
        os.environ.setdefault("MKL_CBWR", "AUTO")
    # Without it matrix products on a GPU are not deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def cpu_vendor() -> str:
    """Return the processor's vendor, as Linux names it; "" where nothing says so."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    return ""


def keep_freed_memory() -> None:
    """Make this process keep the memory that it frees.

    glibc gives it back at once, and each step asks for the same amount again: new pages cost a
    tenth of a step and more. Elsewhere there is no mallopt.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        # Older ones take 32 MB at most. To keep the heap alone would be worse than nothing.
        if mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 32 << 20):
            mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
