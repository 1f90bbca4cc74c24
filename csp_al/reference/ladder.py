"""What is tried again when a calculation fails: one table for each kind of reference, extended by the campaign file.

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
from csp_al.reference.references import reference_kind

AGAIN: Final = Remedy(when="^killed by SIGKILL", say="once more, as it was")
"""Whoever ends a process, as the kernel does that runs out of memory, may have meant another one."""

GENTLER: Final[Mapping[str, Callable[[float, float], float]]] = {
    "mixing_beta": min, "electron_maxstep": max, "mixing_ndim": max, "maxiter": max, "bands": max, "time_limit": max,
}  # fmt: skip
"""Which of two values of a key is the more patient one; a remedy never undoes a user's patience."""


def ladder(section: AnyReference) -> tuple[Remedy, ...]:
    """The remedies for a reference: the user's own first."""
    return (*section.remedies, *reference_kind(section).ladder)


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
