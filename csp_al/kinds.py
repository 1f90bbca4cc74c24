"""Kinds of references, potentials, sources, strategies and engines: ours, of installed packages, and any other.

    find(REFERENCES, "gpaw")                   # ours
    find(REFERENCES, "emt")                    # of a package with the entry point emt in the group csp_al.references
    find(REFERENCES, "my_package.emt.KIND")    # by import path, from the current folder too

A kind is a record (`csp_al.interfaces`) that says all that others need to know of it; that of a strategy is a
function. Ours are imported when they are asked for and not before; a package cannot take their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from csp_al.importing import ImportPathError, find_named
from csp_al.spelling import did_you_mean

REFERENCES: Final = "csp_al.references"
POTENTIALS: Final = "csp_al.potentials"
SOURCES: Final = "csp_al.sources"
STRATEGIES: Final = "csp_al.strategies"
ENGINES: Final = "csp_al.engines"

OURS: Final[Mapping[str, Mapping[str, str]]] = {
    REFERENCES: {
        "gpaw": "csp_al.reference.gpaw.KIND",
        "espresso": "csp_al.reference.espresso.KIND",
        "vasp": "csp_al.reference.vasp.KIND",
        "ase": "csp_al.reference.ase_calculator.KIND",
    },
    SOURCES: {
        "random": "csp_al.generate.random_cells.KIND",
        "symmetric": "csp_al.generate.symmetric_cells.KIND",
        "repeated": "csp_al.generate.repeated_cells.KIND",
        "given_cell": "csp_al.generate.given_cell.KIND",
    },
    POTENTIALS: {
        "schnet": "csp_al.potential.schnet.KIND",
        "painn": "csp_al.potential.painn.KIND",
        "so3net": "csp_al.potential.so3net.KIND",
        "leignn": "csp_al.potential.leignn.KIND",
        "forcenet": "csp_al.potential.forcenet.KIND",
    },
    STRATEGIES: {
        "paper": "csp_al.select.strategies.paper",
        "lowest": "csp_al.select.strategies.lowest",
        "uncertainty": "csp_al.select.strategies.uncertainty",
        "random": "csp_al.select.strategies.random",
    },
    ENGINES: {
        "local": "csp_al.engine.local.KIND",
        "slurm": "csp_al.engine.clusters.SLURM",
        "pbs": "csp_al.engine.clusters.PBS",
        "lsf": "csp_al.engine.clusters.LSF",
        "sge": "csp_al.engine.clusters.SGE",
        "parsl": "csp_al.engine.clusters.PARSL",
    },
}
"""Where each of our records is. The names are those of the groups of entry points."""


class UnknownKindError(ValueError):
    """No kind has this name; the message has what was meant perhaps, or what there is."""

    def __init__(self, group: str, name: str) -> None:
        self.allowed = names(group)
        hint = did_you_mean(name, self.allowed) or f"; allowed: {', '.join(self.allowed)}, or an import path"
        super().__init__(f"{group}: unknown kind {name!r}{hint}")


class BrokenKindError(ValueError):
    """A kind that is not ours cannot be imported, or is no record; the message is one line with the reason."""


def find(group: str, name: str) -> Any:
    """The record of a kind. Raises UnknownKindError, and BrokenKindError for one that cannot be imported or is none."""
    if name in OURS[group]:
        return _ours(group, name)
    if points := installed(group).get(name):
        record = _load(points)
    elif "." in name:
        record = _by_path(name)
    else:
        raise UnknownKindError(group, name)
    wanted = type(_ours(group, next(iter(OURS[group]))))
    if not isinstance(record, wanted):
        raise BrokenKindError(f"{name}: of type {type(record).__name__}, not {wanted.__module__}.{wanted.__name__}")
    return record


def names(group: str) -> list[str]:
    """The kinds that there are, ours first. Imports none of them."""
    return list(dict.fromkeys((*OURS[group], *installed(group))))


def is_ours(group: str, name: str) -> bool:
    """Whether a kind is of csp_al itself. Any other is code of its author."""
    return name in OURS[group]


def installed(group: str) -> dict[str, list[EntryPoint]]:
    """Entry points of installed packages by name: several where packages disagree. A name of ours stays ours."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        if point.value not in [other.value for other in found.setdefault(point.name, [])]:
            found[point.name].append(point)
    return found


def _ours(group: str, name: str) -> Any:
    module, _, record = OURS[group][name].rpartition(".")
    return getattr(import_module(module), record)


def _by_path(path: str) -> Any:
    try:
        return find_named(path)
    except ImportPathError as error:
        raise BrokenKindError(str(error)) from error


def _load(points: list[EntryPoint]) -> Any:
    point = points[0]
    if len(points) > 1:
        owners = " and ".join(f"{package_of(other)} ({other.value})" for other in points)
        raise BrokenKindError(f"{point.name}: both {owners} have a kind of this name; remove one, or write its path")
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        msg = f"{point.name}: {point.value} of {package_of(point)} cannot be imported ({why})"
        raise BrokenKindError(msg) from error


def package_of(point: EntryPoint) -> str:
    """The package that an entry point belongs to, in words."""
    return f"the package {point.dist.name}" if point.dist else "a package"
