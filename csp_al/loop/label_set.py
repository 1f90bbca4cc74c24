"""Labels of all sources as one set: judged, numbered, and enough to begin with.

Whether they may be trusted, only the reference method can say (`csp_al.loop.imported`).

    labels, table = read_labels(campaign, folder)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from csp_al.campaign import AnyReference, Campaign, species_counts
from csp_al.campaign.errors import Finding, Misfit
from csp_al.loop.label_files import Found, Source, read_source
from csp_al.reference.sanity import why_insane
from csp_al.structures import Labels, Status, Structures

LEAST: Final = 10
"""Usable labels that an ensemble is trained on at least."""


def read_labels(campaign: Campaign, folder: Path) -> tuple[Labels, pd.DataFrame]:
    """The labels of all sources, and a table with a row for each: id, source, place, known, status, reason.

    Ids are -1, -2, ..., one for each crystal; paths are relative to the folder. Raises `Misfit` with everything that
    is wrong, at ("labels", i) or ("labels",).
    """
    sources, findings = [], []
    for row, name in enumerate(campaign.labels):
        try:
            sources.append(read_source(name, folder / name, campaign))
        except ValueError as error:
            findings.append(Finding(("labels", row), str(error)))
    if findings:
        raise Misfit(findings)
    labels, table = _joined(sources, campaign.reference)
    if reason := _too_little(labels.usable, campaign.pool.formula):
        raise Misfit([Finding(("labels",), reason)])
    return labels, table


def _joined(sources: Sequence[Source], reference: AnyReference) -> tuple[Labels, pd.DataFrame]:
    rows = [(source, label) for source in sources for label in source.found]
    found = [label for _, label in rows]
    crystals = list(dict.fromkeys(label.crystal for label in found))
    number = {crystal: -1 - place for place, crystal in enumerate(crystals)}
    ids = [number[label.crystal] for label in found]
    reasons = _reasons(found, reference)
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


def _reasons(found: Sequence[Found], reference: AnyReference) -> list[str]:
    """Why each label is not to be used, empty where it is: not sane, or there already, as in a run and its export."""
    seen: dict[bytes, str] = {}
    reasons = []
    for label in found:
        arrays = (label.atoms.numbers, label.atoms.positions, label.atoms.cell.array)
        first = seen.setdefault(b"".join(array.tobytes() for array in arrays), label.place)
        twice = "" if first == label.place else f"the same structure as {first}"
        insane = why_insane(
            label.atoms, label.energy, label.forces, label.stress, reference.max_force, reference.max_stress
        )
        reasons.append(twice or str(insane or ""))
    return reasons


def _too_little(usable: Labels, formula: str) -> str:
    """Why an ensemble cannot be trained on these labels; empty if it can."""
    if len(usable) < LEAST:
        return f"{len(usable)} usable labels in all; an ensemble needs at least {LEAST} to begin with"
    if len(np.unique(usable.structures.ids)) < 2:
        return "all labels are of one crystal, on its way to rest; give labels of others, to validate with"
    symbols = {symbol for atoms in usable.structures.to_atoms() for symbol in atoms.symbols}
    missing = [symbol for symbol in species_counts(formula) if symbol not in symbols]
    return f"no usable label has {' or '.join(missing)}, which pool.formula, {formula}, asks for" if missing else ""
