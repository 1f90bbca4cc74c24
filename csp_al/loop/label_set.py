"""Labels of all sources as one set: judged, numbered, and enough to begin with.

Whether they may be trusted, only the reference method can say (`csp_al.loop.imported`).

    labels, table = read_labels(campaign, folder)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from ase.units import GPa

from csp_al.campaign import AnyReference, Campaign, species_counts
from csp_al.campaign.errors import Finding, Misfit
from csp_al.geometry import first_alike
from csp_al.loop.label_files import SHOWN, Found, Source, read_source
from csp_al.reference.sanity import why_insane
from csp_al.structures import Floats, Labels, Status, Structures

LEAST: Final = 10
"""Usable labels that an ensemble is trained on at least."""

NOISE_ENERGY: Final = 1e-3
"""eV/atom that two labels of one structure may differ by and still be the same: SCF thresholds, digits in a file."""

NOISE_FORCE: Final = 0.1
"""eV/Å, likewise for the length of a force."""

NOISE_STRESS: Final = 0.5
"""GPa, likewise for each component of the stress."""


def read_labels(
    campaign: Campaign, folder: Path, tell: Callable[[Finding], None] = lambda _: None
) -> tuple[Labels, pd.DataFrame]:
    """The labels of all sources, and a table with a row for each: id, source, place, known, status, reason.

    Ids are -1, -2, ..., one for each crystal; paths are relative to the folder. What was left out, or read
    from unusual keys, is told. Raises `Misfit` with everything that is wrong, at ("labels", i) or ("labels",).
    """
    sources = [read_source(file, folder, campaign) for file in campaign.labels]
    remarks = [
        Finding(("labels", row), f"{source.name}: {source.remarks}")
        for row, source in enumerate(sources)
        if source.found and source.remarks
    ]
    faults = [Finding(("labels", row), fault) for row, source in enumerate(sources) for fault in source.faults]
    alike = first_alike([label.atoms for source in sources for label in source.found])
    if not faults:
        faults = list(_contradictions(sources, alike))
    if faults:
        raise Misfit(faults)
    labels, table = _joined(sources, alike, campaign.reference)
    if reason := _too_little(labels.usable, campaign.pool.formula):
        twice = sum(first != row for row, first in enumerate(alike))
        said = [f"{twice} more are of structures that are there already"] if twice else []
        said += [finding.message for finding in remarks]
        raise Misfit([Finding(("labels",), "; ".join([reason, *said]))])
    for finding in remarks:
        tell(finding)
    return labels, table


def _contradictions(sources: Sequence[Source], alike: Sequence[int]) -> Iterator[Finding]:
    """Labels of one structure that say different things of it, each pair of places once, at the later source."""
    rows = [(row, label) for row, source in enumerate(sources) for label in source.found]
    found: dict[tuple[int, int], list[str]] = {}
    for index, first in enumerate(alike):
        (row, label), (first_row, earlier) = rows[index], rows[first]
        if first != index and (apart := _apart(earlier, label)):
            found.setdefault((first_row, row), []).append(f"{earlier.place} and {label.place}: {apart}")
    for (_, row), words in found.items():
        more = f"; and {len(words) - SHOWN} pairs more" if len(words) > SHOWN else ""
        message = f"the same structure with different values: {'; '.join(words[:SHOWN])}{more}; leave one of them out"
        yield Finding(("labels", row), message)


def _apart(one: Found, other: Found) -> str:
    """By how much two labels of one structure differ, if by more than noise; empty if not."""
    count = len(one.atoms)
    energy = abs(one.energy - other.energy) / count
    if energy > NOISE_ENERGY:
        return f"{one.energy / count:.4f} and {other.energy / count:.4f} eV/atom"
    same_order = np.array_equal(one.atoms.numbers, other.atoms.numbers)
    force = np.abs(_sorted_norms(one.forces) - _sorted_norms(other.forces)).max()
    if same_order and force > NOISE_FORCE:
        return f"forces that differ by {force:.3f} eV/Å"
    stress = np.abs(one.stress - other.stress).max() / GPa
    return f"stresses that differ by {stress:.2f} GPa" if stress > NOISE_STRESS else ""


def _sorted_norms(forces: Floats) -> Floats:
    """Lengths of the forces, whatever the order of the atoms."""
    return np.sort(np.linalg.norm(forces, axis=1))


def _joined(sources: Sequence[Source], alike: Sequence[int], reference: AnyReference) -> tuple[Labels, pd.DataFrame]:
    rows = [(source, label) for source in sources for label in source.found]
    found = [label for _, label in rows]
    crystals = list(dict.fromkeys(label.crystal for label in found))
    number = {crystal: -1 - place for place, crystal in enumerate(crystals)}
    ids = [number[label.crystal] for label in found]
    reasons = _reasons(found, alike, reference)
    status = [Status.REJECTED if reason else Status.DONE for reason in reasons]
    worth = [np.nan if reason else 1.0 for reason in reasons]  # a value that is not to be believed is NaN
    labels = Labels(
        structures=Structures.from_atoms([label.atoms for label in found], ids),
        energy=np.array([factor * label.energy for factor, label in zip(worth, found, strict=True)]),
        forces=np.concatenate([factor * label.forces for factor, label in zip(worth, found, strict=True)]),
        stress=np.array([factor * label.stress for factor, label in zip(worth, found, strict=True)]),
        status=np.array(status, dtype=np.str_),
        reason=np.array(reasons, dtype=np.str_),
        cost=np.zeros(len(found)),
        evaluations=np.zeros(len(found), np.int64),
        cycle=np.zeros(len(found), np.int64),
    )
    listed = [(source.name, label.place, source.known) for source, label in rows]
    table = pd.DataFrame(listed, columns=["source", "place", "known"])
    return labels, table.assign(id=ids, status=status, reason=reasons)


def _reasons(found: Sequence[Found], alike: Sequence[int], reference: AnyReference) -> list[str]:
    """Why each label is not to be used, empty where it is: not sane, or there already, as in a run and its export."""
    reasons = []
    for row, label in enumerate(found):
        twice = "" if alike[row] == row else f"the same structure as {found[alike[row]].place}"
        insane = why_insane(
            label.atoms, label.energy, label.forces, label.stress, reference.max_force, reference.max_stress
        )
        reasons.append(twice or str(insane or ""))
    return reasons


def _too_little(usable: Labels, formula: str) -> str:
    """Why an ensemble cannot be trained on these labels; empty if it can."""
    if len(usable) < LEAST:
        count = f"{len(usable)} usable label{'' if len(usable) == 1 else 's'}"
        return f"{count} in all; an ensemble needs at least {LEAST} to begin with"
    if len(np.unique(usable.structures.ids)) < 2:
        return "all labels are of one crystal, on its way to rest; give labels of others, to validate with"
    symbols = {symbol for atoms in usable.structures.to_atoms() for symbol in atoms.symbols}
    missing = [symbol for symbol in species_counts(formula) if symbol not in symbols]
    return f"no usable label has {' or '.join(missing)}, which pool.formula, {formula}, asks for" if missing else ""
