"""Which kind of crystal is it? By the AFLOW library of prototypes, which pymatgen brings.

    label_of(structure)  # A2B_tP6_136_f_a: formula, Pearson symbol, space group, Wyckoff letters of O2Ti
    prototype_of(structure, 136).name  # Rutile (C4)

M. J. Mehl et al., Comput. Mater. Sci. 136, S1 (2017), doi:10.1016/j.commatsci.2017.01.017. A crystal is of a prototype
of the same space group and anonymous formula if pymatgen's StructureMatcher takes both for the same but for their
elements; of several the one that still fits when the tolerances are tightened. Where none fits it is told which one has
the same Wyckoff letters: its coordinates are others, or those of the library are wrong, as of anatase and brookite in
2026.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from csp_al.cif import STRICT

if TYPE_CHECKING:
    from pymatgen.core import Structure

TIGHTER: Final = 0.8
"""Share of its tolerances that the matcher keeps each time that several prototypes fit, as in pymatgen."""
TIGHTEST: Final = 0.05
TRICLINIC: Final = (1, 2)
"""Space groups in which Wyckoff letters say nothing."""
LABEL: Final = re.compile(r"[A-Z]\w*_[a-z][A-Z]\d+_\d+_\w+:[\w-]+")


@dataclass(frozen=True)
class Prototype:
    """``name`` is that of the kind of crystal; ``isopointal`` that of the one with the same Wyckoff letters, else."""

    name: str | None
    isopointal: str | None = None


def label_of(structure: Structure) -> str | None:
    """The label as AFLOW writes it, elements in alphabetical order; None where spglib finds none."""
    if (found := _label(structure)) is None:
        return None
    label = found.partition(":")[0]
    return re.sub(r"_hR(\d+)_", lambda pearson: f"_hR{int(pearson[1]) // 3}_", label)  # of the primitive cell there


def prototype_of(structure: Structure, group: int) -> Prototype:
    """The prototype of a crystal of this space group."""
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    in_group = [entry for entry in AFLOW_PROTOTYPE_LIBRARY if entry["tags"]["aflow"].split("_")[2] == str(group)]
    formula = structure.composition.anonymized_formula
    alike = [entry for entry in in_group if entry["snl"].structure.composition.anonymized_formula == formula]
    found, share = _fitting(alike, structure, 1.0), TIGHTER
    while len(found) > 1 and share > TIGHTEST and (nearer := _fitting(found, structure, share)):
        found, share = nearer, share * TIGHTER
    if found:
        return Prototype(_name(found[0]["tags"]))
    kind = None if group in TRICLINIC else _kind(structure)
    same = [entry for entry in alike if kind is not None and _kind(entry["snl"].structure) == kind]
    return Prototype(None, _name(same[0]["tags"]) if len(same) == 1 else None)


def _fitting(entries: list[Any], structure: Structure, share: float) -> list[Any]:
    """Those that are the same but for the elements within a share of pymatgen's tolerances."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(ltol=0.2 * share, stol=0.3 * share, angle_tol=5 * share)
    return [entry for entry in entries if matcher.fit_anonymous(entry["snl"].structure, structure)]


def _kind(structure: Structure) -> str | None:
    """The label without elements and their order."""
    from pymatgen.analysis.prototypes import get_prototype_from_protostructure

    label = _label(structure)
    return None if label is None else str(get_prototype_from_protostructure(label))


def _label(structure: Structure) -> str | None:
    """As ``A2B_tP6_136_f_a:O-Ti``."""
    from pymatgen.analysis.prototypes import get_protostructure_label_from_spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what pymatgen itself will no longer use
        label = str(get_protostructure_label_from_spglib(structure, init_symprec=STRICT))
    return label if LABEL.fullmatch(label) else None  # else it says what went wrong


def _name(tags: dict[str, Any]) -> str:
    """Mineral or element with Strukturbericht, as ``Rutile (C4)``; of some the library has one of both or its label."""
    mineral = re.sub(r"[$\\]", "", tags["mineral"]).partition(",")[0]
    letter = tags["strukturbericht"] if tags["strukturbericht"] != "None" else ""
    return f"{mineral} ({letter})" if mineral and letter else mineral or letter or str(tags["aflow"])
