"""Programs that run for us: how they share the machine, and that they do not outlive us."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""What tells libraries how many threads to use."""

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def one_thread_each() -> dict[str, str]:
    """The environment of a program whose cores are used by processes; several of them share the machine unbound.

    Open MPI binds the first process of every program to the first core, so that two programs would share one.
    """
    bound = {"OMPI_MCA_hwloc_base_binding_policy": "none", "PRTE_MCA_hwloc_default_binding_policy": "none"}
    return os.environ | dict.fromkeys(THREADS, "1") | bound


def die_with_parent() -> None:
    """To be called in a new process: it is killed when the process that made it ends, however that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
