"""Contract tests for what packages add to csp_al, to be called from their own tests. Each raises AssertionError.

A test of a package:

    def test_my_reference_keeps_its_contract(tmp_path):
        check_reference({"kind": "springs", "depth": 0.3}, bulk("Al"), tmp_path)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import TypeAdapter

from csp_al.campaign.constraints import resolve
from csp_al.campaign.models import Pool
from csp_al.campaign.potentials import AnyPotential, PotentialSection
from csp_al.campaign.references import AnyReference, ReferenceSection
from csp_al.campaign.section import Section
from csp_al.campaign.sources import AnySource, SourceSection
from csp_al.engine.contract import check_engine
from csp_al.engine.tasks import LIMITS, label_task, task_id
from csp_al.generate.sources import candidate_of
from csp_al.interfaces import PotentialKind, Reference, ReferenceFailedError, ReferenceKind, SourceKind, Task
from csp_al.kinds import POTENTIALS, REFERENCES, SOURCES, find
from csp_al.potential.contract import check_kind, labels_by
from csp_al.reference.derivatives import slopes, trial
from csp_al.reference.evaluate import single_point
from csp_al.reference.ladder import in_force
from csp_al.reference.references import build_reference

if TYPE_CHECKING:
    from ase import Atoms

    from csp_al.structures import Labels

__all__ = ["check_engine", "check_potential", "check_reference", "check_source", "labels_by"]

CANDIDATES: Final = 5
"""Streams that a source is asked for a candidate of."""
RATTLE: Final = 0.1
"""Å, by which atoms are moved, so that no force vanishes by symmetry."""


def check_reference(section: Mapping[str, Any], atoms: Atoms, folder: Path) -> None:
    """Whether a kind of reference keeps its contract, tried on a section of it and on atoms that it can compute.

    The atoms are periodic and not at rest by symmetry alone: they are rattled here. ``folder`` is an empty one.
    """
    kind = find(REFERENCES, section["kind"])
    assert isinstance(kind, ReferenceKind), f"{section['kind']} is no csp_al.interfaces.ReferenceKind"
    parsed = _section(AnyReference, section)
    assert isinstance(parsed, ReferenceSection)
    _check_keys(parsed, kind, atoms)
    for remedy in kind.ladder:  # whatever it sets must be a section again
        assert type(in_force(parsed, [remedy])) is type(parsed), f"the remedy {remedy.say!r} makes no section"
    kind.prepare(parsed)
    reference = build_reference(parsed, sorted(set(atoms.symbols)))
    assert reference.name, "a reference needs a name"
    assert reference.check() == [], f"it cannot run here: {reference.check()}"
    assert all(key in kind.section.model_fields and words for key, words in reference.warnings())
    pinned = reference.pinned()
    assert type(pinned) is type(parsed), "pinned() gives a section of the same kind"
    assert build_reference(pinned, sorted(set(atoms.symbols))).pinned() == pinned, "what is pinned stays as it is"
    assert all(isinstance(word, str) for pair in reference.versions().items() for word in pair)
    _check_results(build_reference(pinned, sorted(set(atoms.symbols))), atoms, folder)


def check_potential(section: Mapping[str, Any], folder: Path, labels: Labels | None = None) -> None:
    """Whether a kind of potential keeps its contract, tried on a section of it that trains within seconds.

    ``folder`` is an empty one. ``labels``, of at least six candidates, are rattled aluminium by ASE's EMT by default;
    `labels_by` makes others.
    """
    kind = find(POTENTIALS, section["kind"])
    assert isinstance(kind, PotentialKind), f"{section['kind']} is no csp_al.interfaces.PotentialKind"
    parsed = _section(AnyPotential, section)
    assert isinstance(parsed, PotentialSection)
    check_kind(kind, parsed, folder, labels)


def check_source(section: Mapping[str, Any], pool: Mapping[str, Any], seed: int = 0) -> None:
    """Whether a kind of source keeps its contract, tried on a section of it and on the pool that it makes.

    ``pool`` has the keys of that section of a campaign file, such as formula.
    """
    kind = find(SOURCES, section["kind"])
    assert isinstance(kind, SourceKind), f"{section['kind']} is no csp_al.interfaces.SourceKind"
    parsed = _section(AnySource, section)
    assert isinstance(parsed, SourceSection)
    constraints = resolve(Pool.model_validate(pool))
    streams = [[seed, 0, 0, index] for index in range(CANDIDATES)]
    made = [candidate_of(parsed, constraints, np.random.default_rng(stream)) for stream in streams]
    np.random.default_rng(seed).random(7)
    again = [candidate_of(parsed, constraints, np.random.default_rng(stream)) for stream in reversed(streams)]
    for one, other in zip(made, reversed(again), strict=True):
        same = (one.numbers.tolist(), one.positions.tolist(), one.cell.tolist())
        assert same == (other.numbers.tolist(), other.positions.tolist(), other.cell.tolist()), (
            "the same random stream must give the same candidate, in whatever order candidates are made"
        )
    different = {(*atoms.positions.ravel(), *atoms.cell.array.ravel()) for atoms in made}
    assert len(different) > 1, "other random streams must give other candidates"


def _section(annotation: Any, given: Mapping[str, Any]) -> Section:
    """The section, checked to come through JSON as it is."""
    adapter: TypeAdapter[Section] = TypeAdapter(annotation)
    section = adapter.validate_python(dict(given))
    assert adapter.validate_json(adapter.dump_json(section)) == section, "the section must survive JSON"
    kept = adapter.validate_python(section.model_dump(mode="json"), context={"trust": False})
    assert kept.model_dump(mode="json") == section.model_dump(mode="json"), "its common keys must be those of its base"
    undescribed = [name for name, field in type(section).model_fields.items() if not field.description]
    assert undescribed in ([], ["kind"]), f"keys without a description: {', '.join(undescribed)}"
    return section


def _check_keys(section: ReferenceSection, kind: ReferenceKind, atoms: Atoms) -> None:
    """A task tells all keys but places, and its id follows from all of these but limits."""
    task = label_task(atoms, section)
    told = task.inputs["reference"]
    fields = kind.section.model_fields
    assert set(kind.places) <= set(fields), "places are keys of the section"
    assert all(fields[key].default is None for key in kind.places), "places are None by default"
    assert set(told) == set(fields) - set(kind.places), "a task tells all keys but places"
    for key in told:
        other = Task(task.kind, task.inputs | {"reference": told | {key: "something else"}})
        assert (task_id(other) == task_id(task)) is (key in LIMITS), f"{key}: an id follows from all keys but limits"


def _check_results(reference: Reference, atoms: Atoms, folder: Path) -> None:
    rattled = atoms.copy()
    rattled.positions += np.random.default_rng(0).uniform(-RATTLE, RATTLE, (len(atoms), 3))
    first, second = (reference.calculator(rattled, folder) for _ in range(2))
    assert first is not second, "every call must give a fresh calculator"
    tried = trial(rattled, reference.kpoints, seed=0)
    results = []
    for number, moved in enumerate(tried.structures):
        attempt = folder / f"attempt-{number}"
        attempt.mkdir()
        try:
            results.append(single_point(reference, moved, attempt))
        except ReferenceFailedError as error:
            raise AssertionError(f"it has no energy, forces and stress: {error}") from error
    assert np.shape(results[0].forces) == (len(atoms), 3), "forces are (N, 3), eV/Å"
    assert np.shape(results[0].stress) == (3, 3), "the stress is ASE's, eV/Å^3"
    wrong = [str(slope) for slope in slopes(tried, results) if not slope.close]
    assert not wrong, f"forces and stress must be derivatives of the energy: {'; '.join(wrong)}"
