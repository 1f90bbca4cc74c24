"""What VASP left: energy, forces and stress of a single point; or why it gave none, in one line.

Values are those of vasprun.xml, and convergence is judged from it. Messages are those of VASP 5.4 to 6.5, as custodian
collects them (https://github.com/materialsproject/custodian).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from ase.stress import full_3x3_to_voigt_6_stress

from csp_al.interfaces import Failure, Reason, ReferenceFailedError
from csp_al.reference.programs import SIGNS, Signs, by_sign, cut_short, killed, launcher
from csp_al.reference.vasprun import UNCONVERGED, frames_in

DONE: Final = "General timing and accounting"
"""Near the end of the OUTCAR of a run that came to its end."""

ERRORS: Final[Signs] = (
    (Failure.INPUT_REFUSED, "input refused", (
        "number of potentials on File POTCAR incompatible", "Error reading item", "No INCAR found",
        "POTCAR and POSCAR are incompatible", "ERROR: there must be 1 or 3 items", "no POTCAR", "File reading error",
        "PSMAXN for non-local potential too small", "TOO FEW BANDS",
    )),
    (Failure.SYMMETRY, "symmetry", (
        "rotation matrix was not found", "non-integer element in rotation matrix", "SGRCON", "INVGRP", "PRICEL",
        "POSMAP", "group operation missing", "RHOSYG", "inverse of rotation matrix", "symmetry equivalent atom not",
        "reciprocal lattice and k-lattice belong to different class",
    )),
    (Failure.WRONG_CHARGE, "charge is wrong", ("BRMIX: very serious problems",)),
    (Failure.DIAGONALISATION, "diagonalisation", (
        "ZHEGV", "ZHEEV", "EDDDAV", "EDDRMM", "ZPOTRF", "PZSTEIN", "PDSYEVX", "PSSYEVX",
        "Sub-Space-Matrix is not hermitian", "ZTRTRI", "FEXCP", "LAPACK: Routine",
    )),
    (Failure.TOO_MANY_CORES, "too many cores for this cell (cores_per_label)", ("M_divide: can not subdivide",)),
)  # fmt: skip
"""What is looked for in what VASP printed where it gave no result; it complains of what it got over too."""


def results_of(folder: Path, status: int, printed: str, cried: str) -> dict[str, Any]:
    """Energy (eV), forces (N, 3) eV/Å and stress (6,) eV/Å^3 as ASE has it, atoms in VASP's order.

    ``printed`` and ``cried`` are what VASP wrote to standard output and error, a ``status`` below 0 is the signal that
    ended it. Raises ReferenceFailedError with the reason where there is no result to be believed.
    """
    outcar, vasprun = folder / "OUTCAR", folder / "vasprun.xml"
    said = outcar.read_text(encoding="utf-8", errors="replace") if outcar.is_file() else ""
    done = DONE in said
    if status or not done:
        reason = _why(printed, cried, said, status, done=done)
        raise ReferenceFailedError(reason.words, reason.kind)
    try:
        frame = frames_in(vasprun)[-1]
    except (OSError, ValueError, IndexError) as error:
        raise ReferenceFailedError(f"vasprun.xml cannot be read: {error}", Failure.UNREADABLE_OUTPUT) from error
    if frame.wrong == UNCONVERGED:
        raise ReferenceFailedError(f"SCF {frame.wrong}", Failure.SCF_NOT_CONVERGED)
    if frame.wrong or frame.energy is None or frame.forces is None or frame.stress is None:
        words = f"vasprun.xml: a single point {frame.wrong or 'without energy, forces or stress'}"
        said_why = by_sign(ERRORS, printed) or Reason(Failure.UNREADABLE_OUTPUT, words)
        raise ReferenceFailedError(said_why.words, said_why.kind)
    return {
        "energy": frame.energy,
        "free_energy": frame.energy,
        "forces": frame.forces,
        "stress": full_3x3_to_voigt_6_stress(frame.stress),
    }


def _why(printed: str, cried: str, outcar: str, status: int, *, done: bool) -> Reason:
    reason = (
        by_sign(SIGNS, f"{printed}\n{cried}")
        or by_sign(ERRORS, f"{printed}\n{cried}")
        or launcher(cried)
        or killed(status)
        or cut_short("VASP", printed + outcar, cried, status, done=done)
    )
    assert reason is not None  # a status, or no end: the last of them says so
    return reason
