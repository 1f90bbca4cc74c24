"""A source of labels from elsewhere: a run directory, a file that ASE reads, or a folder of outputs of pw.x and VASP.

It is read whole or refused by name: one label of another species, without stress or with a NaN says that the source is
not what it is taken for.

    source = read_source("old/si16.extxyz", folder / "old/si16.extxyz", campaign)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io import read

from csp_al.campaign import AnyReference, Campaign, species_counts
from csp_al.engine.tasks import LIMITS
from csp_al.files import DamagedError, OtherVersionError
from csp_al.kinds import REFERENCES
from csp_al.reference.references import places
from csp_al.reference.sanity import not_finite
from csp_al.store.changes import differences
from csp_al.store.layout import LABELS, folders_of
from csp_al.store.run_directory import SETTINGS, NoRunError, read_campaign_of
from csp_al.store.stages import verify
from csp_al.structures import Floats, concatenate

if TYPE_CHECKING:
    from ase import Atoms

NEEDED: Final = ("energy", "forces", "stress")
BEGINNING: Final = 50_000  # bytes of a *.out in which pw.x gives its name, behind whatever the launcher says


@dataclass(frozen=True)
class Found:
    """One label: energy eV, forces (N, 3) eV/Å, stress (3, 3) eV/Å^3, and where it stands, in words.

    Labels of one ``crystal`` resemble one another, so that a potential must not be validated on one of them and
    trained on another.
    """

    atoms: Atoms
    energy: float
    forces: Floats
    stress: Floats
    place: str
    crystal: str


@dataclass(frozen=True)
class Source:
    """The labels of one path; ``known`` if their settings are known to be the campaign's."""

    name: str
    known: bool
    found: list[Found]


def read_source(name: str, path: Path, campaign: Campaign) -> Source:
    """All labels of a path, told by the name that the campaign file gives it. Raises ValueError in one line."""
    known = (path / SETTINGS).is_file()
    source = Source(name, known, list(_of_run(name, path, campaign.reference) if known else _of_files(name, path)))
    formula = campaign.pool.formula
    for label in source.found:
        foreign = sorted(set(label.atoms.symbols) - set(species_counts(formula)))
        if foreign:
            msg = f"{label.place}: {', '.join(foreign)} is not in pool.formula, {formula}; leave these labels out"
            raise ValueError(msg)
    return source


def _of_run(name: str, path: Path, reference: AnyReference) -> Iterator[Found]:
    """The usable labels of a run, if its reference section differs from this one in its limits at most."""
    try:
        aside = {*LIMITS, *places(reference)}
        theirs, ours = (section.model_dump(mode="json") for section in (_reference_of(path, reference), reference))
        found = differences(_without(theirs, aside), _without(ours, aside))
        changes = [f"{key}: {words}" for key, words in found.items()]
        folders = folders_of(path, "label").values()
        for folder in folders:
            verify(folder)
        labels = concatenate([LABELS.read(folder) for folder in folders]) if folders else None
    except (NoRunError, DamagedError, OtherVersionError) as error:
        raise ValueError(str(error)) from error
    if changes:
        msg = (
            f"{name} was labelled with another reference section ({'; '.join(changes)}); take the same one here, "
            "or leave the run out; where the labels should agree all the same, name the file that `csp-al export DIR "
            "--what labels --format extxyz` writes, of which two are computed again"
        )
        raise ValueError(msg)
    if labels is None or not len(labels.usable):
        msg = f"{name} has no usable labels yet; leave it out, or wait for its first cycle"
        raise ValueError(msg)
    usable = labels.usable
    ptr, ids = usable.structures.ptr, usable.structures.ids
    for row, atoms in enumerate(usable.structures.to_atoms()):
        forces = usable.forces[ptr[row] : ptr[row + 1]]
        place = f"{name}, cycle {usable.cycle[row]}, id {ids[row]}"
        yield Found(atoms, float(usable.energy[row]), forces, usable.stress[row], place, f"{name}, id {ids[row]}")


def _reference_of(run: Path, reference: AnyReference) -> AnyReference:
    return read_campaign_of(run, trust=[(REFERENCES, reference.kind)]).reference


def _without(section: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in keys}


def _of_files(name: str, path: Path) -> Iterator[Found]:
    if not path.is_dir():
        for number, atoms in enumerate(_frames(name, path, None)):
            place = f"{name}, frame {number}"
            yield _label(atoms, place, crystal=place)
        return
    outputs = [(file, kind) for file in sorted(path.rglob("*")) if (kind := _kind(file))]
    if not outputs:
        msg = (
            f"{name} is no run directory and holds no outputs of pw.x (*.out, *.pwo) or VASP (vasprun*.xml); name the "
            "files themselves"
        )
        raise ValueError(msg)
    for file, kind in outputs:
        output = f"{name}/{file.relative_to(path)}"
        for number, atoms in enumerate(_frames(output, file, kind)):
            yield _label(atoms, f"{output}, frame {number}", crystal=output)  # a relaxation's steps are one crystal


def _kind(path: Path) -> str:
    """ASE's name for the format of an output; empty for any other file, such as the log of a scheduler."""
    if not path.is_file():
        return ""
    if path.match("vasprun*.xml"):
        return "vasp-xml"
    if path.suffix not in (".out", ".pwo"):
        return ""
    with path.open("rb") as file:
        return "espresso-out" if b"Program PWSCF" in file.read(BEGINNING) else ""


def _frames(name: str, path: Path, kind: str | None) -> list[Atoms]:
    try:
        frames: list[Atoms] = read(path, index=":", format=kind)
    except Exception as error:  # each of ASE's readers fails in its own way
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        msg = f"{name} cannot be read ({reason}); mend it or leave it out"
        raise ValueError(msg) from error
    if not frames:
        msg = f"{name} holds no structure with results; leave it out"
        raise ValueError(msg)
    return frames


def _label(atoms: Atoms, place: str, crystal: str) -> Found:
    """What a frame says, unless it is no label of a crystal. Raises ValueError with its place."""
    results = getattr(atoms.calc, "results", {})
    missing = [quantity for quantity in NEEDED if results.get(quantity) is None]
    if missing:
        wrong = f"no {', no '.join(missing)}; a label has energy, forces and stress (pw.x: tprnfor, tstress)"
    elif not (atoms.pbc.all() and len(atoms)):
        wrong = "not periodic in three directions"
    elif not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        wrong = "positions or cell not finite"
    elif atoms.cell.volume < 1e-3:
        wrong = f"no periodic cell (volume {atoms.cell.volume:.3g} Å^3)"
    else:
        # constraints belong to the optimiser that kept them, not to the forces
        forces = np.array(atoms.get_forces(apply_constraint=False))
        stress = np.array(atoms.get_stress(voigt=False, apply_constraint=False))
        label = Found(atoms, _energy(atoms), forces, stress, place, crystal)
        wrong = str(not_finite(label.energy, forces, stress) or "")
        if not wrong:
            return label
    msg = f"{place}: {wrong}; leave the frame out"
    raise ValueError(msg)


def _energy(atoms: Atoms) -> float:
    """The energy whose derivatives the forces are, where the file tells it apart, as for labels of our own."""
    try:
        return float(atoms.get_potential_energy(force_consistent=True))
    except PropertyNotImplementedError:
        return float(atoms.get_potential_energy())
