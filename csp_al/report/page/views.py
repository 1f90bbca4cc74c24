"""The crystals that a page shows in 3D: flat arrays as those of `csp_al.structures.Structures`, in base64.

found, table = found_so_far(run)
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from csp_al import cif, objective
from csp_al.cif import cif_text
from csp_al.files import DamagedError
from csp_al.printing import printable_lines
from csp_al.report.export import predicted, winners
from csp_al.report.export_formats import Exported
from csp_al.report.page import sections
from csp_al.report.page.cells import Table
from csp_al.report.tables import Run
from csp_al.select.ranking import rows_of
from csp_al.store import layout
from csp_al.structures import Structures

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms

STEPS: Final = 2**16
"""Of a fraction of a lattice vector: 0.0002 Å of 10 Å."""
ATOMS: Final = 300_000
"""Of the candidates whose crystals the map shows, at most: 3 MB."""


def found_so_far(run: Run) -> tuple[dict[str, Any], Table]:
    """The ranked crystals, or else what leads, for the 3D views; and the table of them."""
    if run.result_rows:
        found = winners(run)
        energies = [objective.show(one.atoms.info["energy_per_atom"]) for one in found]
        return _shown(found, energies), sections.results(run)
    verdicts = run.published("verdict")
    cycle = max(verdicts, default=-1)
    said = run.verdict(cycle)
    ranking = run.ranking(cycle).set_index("id", drop=False)
    if said and not set(said.top) <= set(ranking.index):
        raise DamagedError(verdicts[cycle] / layout.VERDICT.name, "it names candidates that were not ranked")
    chosen = ranking.loc[said.top if said else []]
    found = predicted(run, cycle, chosen) if len(chosen) else []
    groups = [sections.named(*cif.space_group(one.atoms)) for one in found]
    energies = [f"{objective.show(one.atoms.info['predicted_energy_per_atom'])} predicted" for one in found]
    return _shown(found, energies), sections.leaders(chosen, groups)


def _shown(found: list[Exported], energies: list[str]) -> dict[str, Any]:
    """Conventional cells for the 3D views, with what stands beside them, and CIF files to save."""
    cells = [cif.conventional(one.atoms) for one in found]
    groups = [sections.named(*cif.space_group(one.atoms)) for one in found]
    return packed(Structures.from_atoms(cells, [one.atoms.info["id"] for one in found])) | {
        "names": [one.atoms.info["name"] for one in found],
        "captions": [
            f"{group}, {cif.formula(cell)}, {energy}"
            for group, cell, energy in zip(groups, cells, energies, strict=True)
        ],
        "cells_in_words": [_cell_in_words(atoms) for atoms in cells],
        "cifs": [printable_lines(cif_text(one.atoms, one.block, one.items)) for one in found],
    }


def _cell_in_words(atoms: Atoms) -> str:
    a, b, c, alpha, beta, gamma = atoms.cell.cellpar()
    return f"a, b, c: {a:.3f}, {b:.3f}, {c:.3f} Å; angles: {alpha:.1f}, {beta:.1f}, {gamma:.1f}°"


def candidates(run: Run, points: pd.DataFrame) -> dict[str, Any]:
    """The candidates of the map as they came to rest, the lowest that `ATOMS` allow."""
    if points.empty:
        return packed(Structures.from_atoms([]))
    relaxed = run.relaxed(int(points["cycle"].iloc[0]))
    assert relaxed is not None  # it was ranked
    structures = relaxed.structures.take(rows_of(relaxed.structures, points.sort_values("energy_per_atom")["id"]))
    sound = np.isfinite(structures.volumes) & (structures.volumes > 0)
    return packed(structures.take(np.flatnonzero(sound & (np.cumsum(structures.counts) <= ATOMS))))


def packed(structures: Structures) -> dict[str, Any]:
    """Ids, and of all atoms in order: ``ptr`` (n+1), numbers (uint8), fractions (N, 3; uint16), cells (float32, Å).

    ``symbols`` are those of the elements that are there, by number; ``metals`` the symbols of metals among them.
    """
    from pymatgen.core import Element

    elements = [Element.from_Z(number) for number in np.unique(structures.numbers).tolist()]
    inverse = np.linalg.inv(structures.cells)[structures.system]
    fractions = np.einsum("ai,aij->aj", structures.positions, inverse)
    return {
        "ids": structures.ids.tolist(),
        "ptr": structures.ptr.tolist(),
        "numbers": _base64(structures.numbers.astype("u1")),
        "fractions": _base64((np.rint(fractions * STEPS) % STEPS).astype("<u2")),
        "cells": _base64(structures.cells.astype("<f4")),
        "symbols": {one.Z: one.symbol for one in elements},
        "metals": [one.symbol for one in elements if one.is_metal],
    }


def _base64(array: NDArray[Any]) -> str:
    return b64encode(array.tobytes()).decode()
