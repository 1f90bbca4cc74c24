"""The formats of the files that csp_al writes, and how the content of an older one becomes that of the next.

Every kind of file counts its own versions. To change one: raise its number in `VERSIONS`, add to `UPGRADES` what makes
content of the new version from that of the one before, and keep a run directory with the new one in ``tests/data``.

    VERSIONS["manifest"]                # what is written
    upgrade("manifest", 2, content)     # what is read
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from typing import Any, Final, Literal, TypeVar

Kind = Literal[
    "settings", "provenance", "manifest", "filled", "task", "outcome", "result", "weights", "arrays", "control",
    "benchmark", "relaxer", "training",
]  # fmt: skip
T = TypeVar("T")
SPECIES: Final = 119
"""Atomic numbers, with that of no element, 0."""

VERSIONS: Final[dict[Kind, int]] = {
    "settings": 4,  # resolved.json
    "provenance": 2,  # provenance.json
    "manifest": 3,  # manifest.json of a stage
    "filled": 1,  # filled.json of a stage that is not yet published
    "task": 2,  # task.json
    "outcome": 2,  # outcome.json of an attempt
    "result": 2,  # result.json of a task
    "weights": 5,  # potential.json, with weights.pt at its side
    "arrays": 2,  # *.h5
    "control": 1,  # control.json of a benchmark
    "benchmark": 1,  # result.json of a benchmark
    "relaxer": 1,  # relaxer.json, with weights.pt at its side
    "training": 1,  # training.json of a relaxer, with training.pt at its side
}


def _name_no_needs(manifest: dict[str, Any]) -> dict[str, Any]:
    """A stage did not say which others it needs: None, for which `stages_needed` has the rule of then."""
    return manifest | {"needs": None}


def _no_zero_of_species(weights: tuple[dict[str, Any], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """All species had one zero of energy, from which none deviated."""
    about, tensors = weights
    shift = tensors.get("energy_shift")
    if shift is None:  # then these are no weights, which whoever reads them says
        return weights
    return about, {"species_shift": shift.new_zeros(*shift.shape[:1], SPECIES)} | tensors


def _name_all_steps(weights: tuple[dict[str, Any], T]) -> tuple[dict[str, Any], T]:
    """Of the potential that was trained."""
    about, tensors = weights
    return about | {"potential": _with_all_steps(about["potential"])}, tensors


def _with_all_steps(potential: dict[str, Any]) -> dict[str, Any]:
    """Training took all its steps, however few the labels were."""
    ours = potential["kind"] in ("schnet", "painn", "so3net")
    return {"steps_per_label": potential["steps"]} | potential if ours else potential


def _name_old_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Volumes that a file did not give were 1.2 to 4.5 spheres of the mean covalent radius."""
    campaign = settings["campaign"]
    pools = {key: _with_volumes(campaign[key]) for key in ("pool", "search_pool") if key in campaign}
    return settings | {"campaign": campaign | pools | {"potential": _with_all_steps(campaign["potential"])}}


def _with_volumes(pool: dict[str, Any] | None) -> dict[str, Any] | None:
    if pool is None or pool["volume_per_atom"] is not None:
        return pool
    from ase.data import atomic_numbers, covalent_radii
    from ase.formula import Formula

    counts = Formula(pool["formula"]).count()
    radius = sum(float(covalent_radii[atomic_numbers[one]]) * n for one, n in counts.items()) / sum(counts.values())
    return pool | {"volume_per_atom": [round(loose * 4 / 3 * pi * radius**3, 3) for loose in (1.2, 4.5)]}


def _name_no_challenge(settings: dict[str, Any]) -> dict[str, Any]:
    """The search stopped as soon as its leaders were unchanged for so long."""
    campaign = settings["campaign"]
    stop = {"challenge": False, "max_error": None, "max_unseen": 1.0} | campaign["stop"]
    return settings | {"campaign": campaign | {"stop": stop}}


UPGRADES: Final[dict[tuple[Kind, int], Callable[[Any], Any]]] = {
    ("settings", 2): _name_old_defaults,
    ("settings", 3): _name_no_challenge,
    ("manifest", 2): _name_no_needs,
    ("weights", 3): _no_zero_of_species,
    ("weights", 4): _name_all_steps,
}
"""By kind and version: from the content of this version to that of the next.

Content is a JSON object without its format; of weights the pair of the JSON object and the tensors by name; of arrays
the root group of the HDF5 file (`h5py.h5g`).
"""


def readable(kind: Kind) -> range:
    """The versions of a kind of file that can be read."""
    oldest = VERSIONS[kind]
    while (kind, oldest - 1) in UPGRADES:
        oldest -= 1
    return range(oldest, VERSIONS[kind] + 1)


def upgrade(kind: Kind, version: int, content: T) -> T:
    """Content of a version that is `readable` as that of the newest, one step after the other."""
    for step in range(version, VERSIONS[kind]):
        content = UPGRADES[kind, step](content)
    return content
