"""What is tried again when a calculation fails: one table for each kind of reference, extended by the campaign file.

A remedy is a change of the reference section. After a failure the first remedy that has not been tried yet, and that is
for it, is added to those that are in force; where none is left, the calculation has failed. Ours go by the kind of a
reason, a user's by its words.

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
from csp_al.interfaces import Cure, Failure, Reason
from csp_al.reference.references import reference_kind

AnyRemedy = Remedy | Cure

AGAIN: Final = Cure(frozenset({Failure.KILLED}), "once more, as it was")
"""Whoever ends a process, as the kernel does that runs out of memory, may have meant another one."""

GENTLER: Final[Mapping[str, Callable[[float, float], float]]] = {
    "mixing_beta": min, "electron_maxstep": max, "mixing_ndim": max, "maxiter": max, "bands": max, "time_limit": max,
    "nelm": max, "amix": min, "bmix": min,
}  # fmt: skip
"""Which of two values of a key is the more patient one; a remedy never undoes a user's patience."""


def ladder(section: AnyReference) -> tuple[AnyRemedy, ...]:
    """The remedies for a reference: the user's own first."""
    return (*section.remedies, *reference_kind(section).ladder)


def next_remedy(rungs: Sequence[AnyRemedy], tried: Sequence[AnyRemedy], reason: Reason) -> AnyRemedy | None:
    """The first remedy that was not tried and that is meant for this reason; None if none is left."""
    return next((remedy for remedy in rungs if remedy not in tried and _is_for(remedy, reason)), None)


def as_told(remedy: AnyRemedy) -> dict[str, Any]:
    """A remedy as an outcome holds it: what it does, and of a user's own also what it is looked for by."""
    if isinstance(remedy, Remedy):
        return remedy.model_dump(mode="json")
    return {"say": remedy.say, "set": remedy.set}


def recognised(rungs: Sequence[AnyRemedy], told: Mapping[str, Any]) -> AnyRemedy | None:
    """The remedy of the ladder that an outcome tells of, if it is one; other keys that stand there do not count."""
    return next((remedy for remedy in rungs if _is_told(remedy, told)), None)


def in_force(section: AnyReference, remedies: Sequence[AnyRemedy]) -> AnyReference:
    """The section with these remedies, one after the other; what was gentler before stays."""
    for remedy in remedies:
        changed = section.with_settings(remedy.set)
        section = type(section).model_validate(_gentler(section.model_dump(), changed.model_dump()))
    return section


def _is_told(remedy: AnyRemedy, told: Mapping[str, Any]) -> bool:
    return remedy.agrees_with(told) if isinstance(remedy, Remedy) else as_told(remedy).items() <= told.items()


def _is_for(remedy: AnyRemedy, reason: Reason) -> bool:
    if isinstance(remedy, Remedy):
        return re.search(remedy.when, reason.words) is not None
    return reason.kind in remedy.kinds


def _gentler(before: Any, after: Any, key: str = "") -> Any:
    if isinstance(before, dict) and isinstance(after, dict):
        return {name: _gentler(before.get(name), value, name) for name, value in after.items()}
    number = isinstance(before, (int, float)) and not isinstance(before, bool)
    return GENTLER[key](before, after) if number and key in GENTLER else after
