"""What pw.x left: energy, forces and stress; or why it gave none, in one line.

A reason's words begin with what failed, "SCF not converged: ...", and its kind is what remedies go by.
Messages are those of Quantum ESPRESSO 6.7 to 7.4.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
from ase.stress import full_3x3_to_voigt_6_stress

from csp_al.interfaces import Failure, Reason
from csp_al.reference.programs import SIGNS, Signs, by_sign, cut_short, killed, launcher, tidy
from csp_al.reference.pw_frames import UNCONVERGED, frames_in

ROUTINES: Final[Signs] = (
    (Failure.SCF_NOT_CONVERGED, "SCF not converged", ("factorization", "broyden", "mix_rho")),
    (Failure.WRONG_CHARGE, "charge is wrong", ("charge is wrong", "imaginary charge")),
    (Failure.FERMI_ENERGY, "Fermi energy", ("efermig", "efermit", "cannot bracket Ef")),
    (Failure.TOO_MANY_CORES, "too many cores for this cell (cores_per_label)", (
        "No plane waves found", "too many processors",
    )),
    (Failure.DIAGONALISATION, "diagonalisation", (
        "S matrix not positive definite", "too many bands", "problems computing cholesky", "failed to converge",
        "eigenvectors", "zhegv", "zheev", "dsyev", "cdiaghg", "rdiaghg", "pdiaghg", "c_bands", "cegterg", "regterg",
    )),
    (Failure.SYMMETRY, "symmetry", (
        "sgam_", "sgama", "symmetr", "smallg", "irrek", "s_axis", "scale_sym", "inverse_s", "cryst_to_car",
        "checkallsym", "not a group", "not orthogonal",
    )),
    (Failure.DISK_FULL, "disk full", ("error writing",)),
    (Failure.SCRATCH, "scratch", ("error while reading", "error reading", "davcio")),
    (Failure.INPUT_REFUSED, "input refused", (
        "read_namelists", "read_cards", "card_", "namelist", "readpp", "read_upf", "iosys",
    )),
)  # fmt: skip
"""What is looked for in the name of the routine and the message of pw.x's own error."""

ERROR: Final = re.compile(r"Error in routine\s+(\S+)\s+\(\s*(-?\d+)\s*\):\s*\n\s*([^\n]*)")
NOT_CONVERGED: Final = re.compile(r"convergence NOT achieved after\s+(\S+)\s+iterations")
ACCURACY: Final = re.compile(r"estimated scf accuracy\s+<\s*(\S+)\s+Ry")
VERSION: Final = re.compile(r"Program PWSCF v\.(\S+)")
DONE: Final = "JOB DONE"


def why_no_result(output: str, errors: str, status: int) -> Reason | None:
    """The reason; None if pw.x says that all went well. A status below 0 is the signal that ended it."""
    if status == 0 and DONE in output:
        # libraries complain in errors of what they got over
        return _by_error(output) or _not_converged(output) or _not_accurate(output)
    return (
        by_sign(SIGNS, f"{output}\n{errors}")
        or _by_error(f"{output}\n{errors}")
        or _not_converged(output)
        or launcher(errors)
        or killed(status)
        or cut_short("pw.x", output, errors, status, done=DONE in output)
    )


def results_in(output: str, atoms: int) -> dict[str, Any]:
    """Energy (eV), forces (N, 3) eV/Å and stress (6,) eV/Å^3 as ASE has it. Raises ValueError where one lacks.

    They are those of the last single point, as `csp_al.reference.pw_frames` reads it.
    """
    frames = frames_in(output)
    energy, forces, stress = (frames[-1].energy, frames[-1].forces, frames[-1].stress) if frames else (None, None, None)
    forces = forces if forces is not None and len(forces) == atoms else None
    if energy is None or forces is None or stress is None:
        values = {"energy": energy, "forces": forces, "stress": stress}
        raise ValueError(f"no {', no '.join(name for name, value in values.items() if value is None)} in it")
    if "***" in output and not all(np.isfinite(value).all() for value in (np.array(energy), forces, stress)):
        raise ValueError("numbers too large for their columns, printed as ***")
    return {
        "energy": energy,
        "free_energy": energy,
        "forces": forces,
        "stress": full_3x3_to_voigt_6_stress(stress),
    }


def version_in(output: str) -> str | None:
    """The version of pw.x that wrote this output."""
    found = VERSION.search(output)
    return found[1] if found else None


def _by_error(written: str) -> Reason | None:
    error = ERROR.search(written)
    if not error:
        return None
    routine, _, message = error.groups()
    found = ((kind, what) for kind, what, signs in ROUTINES if re.search("|".join(signs), f"{routine} {message}"))
    kind, what = next(found, (Failure.OTHER, "error"))
    return Reason(kind, f"{what}: {tidy(message)} (pw.x, {routine})")


def _not_converged(output: str) -> Reason | None:
    found = NOT_CONVERGED.search(output)
    if not found:
        return None
    accuracy = ACCURACY.findall(output)
    reached = f", accuracy {accuracy[-1]} Ry" if accuracy else ""
    return Reason(Failure.SCF_NOT_CONVERGED, f"SCF not converged: {found[1]} steps{reached}")


def _not_accurate(output: str) -> Reason | None:
    """With scf_must_converge off, pw.x says that it has converged wherever it was when its steps ran out."""
    frames = frames_in(output)
    if not frames or frames[-1].wrong != UNCONVERGED:
        return None
    words = f"SCF not converged: accuracy {ACCURACY.findall(output)[-1]} Ry, conv_thr asked for more"
    return Reason(Failure.SCF_NOT_CONVERGED, words)
