"""Kinds of potentials, the ensemble of them, and its training.

A kind is a light file here (its section and what is to be known of it before torch is loaded) and one in `networks`.
"""

import os

# Before torch and numba load OpenMP, which asks once. Threads that spin while they wait take the cores of whoever works
# beside them: of two campaigns on two cores each trained four times slower, and with one thread each twenty times.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
