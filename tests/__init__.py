"""Tests. Two workers are as many as there are cores, so each has one thread.

So do the programs that they start: torch and OpenMP read this when they are loaded.
"""

import os

from agr.utils.process import set_up_process

os.environ.setdefault("OMP_NUM_THREADS", "1")
set_up_process()
