"""What is tried again when a calculation fails: one table for each code, extended by the campaign file.

A remedy is a change of the reference section. After a failure the first remedy that has not been tried yet, and whose
``when`` is found in the reason, is added to those that are in force; where none is left, the calculation has failed.
Remedies change how the answer is looked for, never the answer: cutoffs, k-points and smearing stay, or the label would
lie on another energy surface. A calculation that was out of time has no remedy here: how long is long enough is the
user's to say, e.g. in the campaign file:

    reference:
      remedies: [{when: took longer, say: more time, set: {time_limit: 7200}}]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from csp_al.campaign.references import AnyReference, Remedy


def _electrons(**settings: Any) -> dict[str, Any]:
    return {"namelists": {"electrons": settings}}


_BANDS: Final = "^(diagonalisation|charge is wrong|Fermi energy)"
_CRASHED: Final = "^(killed|no output|output ends early|scratch|MPI)"

_AGAIN: Final = Remedy(when="^killed by SIGKILL", say="once more, as it was")
"""Whoever ends a process, as the kernel does that runs out of memory, may have meant another one."""

ESPRESSO: Final = (
    Remedy(
        when="^SCF not converged", say="slower mixing, more steps",
        set=_electrons(mixing_beta=0.2, electron_maxstep=200),
    ),
    Remedy(
        when="^SCF not converged", say="local Thomas-Fermi mixing of more steps",
        set=_electrons(mixing_mode="local-TF", mixing_beta=0.2, mixing_ndim=12, electron_maxstep=200),
    ),
    Remedy(
        when="^SCF not converged", say="conjugate gradients, very slow plain mixing",
        set=_electrons(diagonalization="cg", mixing_mode="plain", mixing_beta=0.05, electron_maxstep=500),
    ),
    Remedy(
        when=_BANDS, say="more bands",
        set={"bands": 1.6},
    ),
    Remedy(
        when=_BANDS, say="conjugate gradients",
        set=_electrons(diagonalization="cg", diago_cg_maxiter=100),
    ),
    Remedy(
        when="^diagonalisation", say="projected preconditioned conjugate gradients, random first waves",
        set=_electrons(diagonalization="ppcg", startingwfc="random"),
    ),
    Remedy(
        when="^symmetry", say="no symmetry",
        set={"namelists": {"system": {"nosym": True, "noinv": True}}},
    ),
    Remedy(
        when="^(out of memory|killed by SIGKILL)", say="a smaller workspace",
        set=_electrons(diago_david_ndim=2),
    ),
    Remedy(
        when="^out of memory", say="conjugate gradients, which need the least memory",
        set=_electrons(diagonalization="cg"),
    ),
    Remedy(when=r"^disk full", say="once more: others may have made room"),
    Remedy(when=_CRASHED, say="once more, as it was"),
)  # fmt: skip
"""Of pw.x, for the reasons that `csp_al.reference.pw_output` gives.

What aiida-quantumespresso (PwBaseWorkChain) and custodian do for the same failures, less what changes the answer.
"""

GPAW: Final = (
    _AGAIN,
    Remedy(
        when="^(?!one evaluation took longer)", say="slower density mixing, more SCF steps, no point-group symmetry",
        set={"parameters": {
            "mixer": {"name": "pulay", "beta": 0.02, "nmaxold": 8, "weight": 100.0},
            "maxiter": 1000,
            "eigensolver": {"name": "davidson", "niter": 3},
            "symmetry": {"point_group": False},  # almost symmetric cells: the group may break between two steps
        }},
    ),
)  # fmt: skip

GENTLER: Final[Mapping[str, Callable[[float, float], float]]] = {
    "mixing_beta": min, "electron_maxstep": max, "mixing_ndim": max, "maxiter": max, "bands": max, "time_limit": max,
}  # fmt: skip
"""Which of two values of a key is the more patient one; a remedy never undoes a user's patience."""

LADDERS: Final[Mapping[str, tuple[Remedy, ...]]] = {"espresso": ESPRESSO, "gpaw": GPAW, "ase": (_AGAIN,)}


def ladder(section: AnyReference) -> tuple[Remedy, ...]:
    """The remedies for a reference: the user's own first."""
    return (*section.remedies, *LADDERS.get(section.kind, ()))


def next_remedy(rungs: Sequence[Remedy], tried: Sequence[Remedy], reason: str) -> Remedy | None:
    """The first remedy that was not tried and that is meant for this reason; None if none is left."""
    return next((remedy for remedy in rungs if remedy not in tried and re.search(remedy.when, reason)), None)


def in_force(section: AnyReference, remedies: Sequence[Remedy]) -> AnyReference:
    """The section with these remedies, one after the other; what was gentler before stays."""
    for remedy in remedies:
        changed = section.with_remedy(remedy)
        section = type(section).model_validate(_gentler(section.model_dump(), changed.model_dump()))
    return section


def _gentler(before: Any, after: Any, key: str = "") -> Any:
    if isinstance(before, dict) and isinstance(after, dict):
        return {name: _gentler(before.get(name), value, name) for name, value in after.items()}
    number = isinstance(before, (int, float)) and not isinstance(before, bool)
    return GENTLER[key](before, after) if number and key in GENTLER else after
