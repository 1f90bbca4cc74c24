"""A pw.x that answers with ASE's EMT, and that breaks in every way in which the real one does.

FAKE_PW names the way; "by turns" takes one by the atoms, so that some of a campaign's labels break, and none of its
relaxations. It notes its
process, and that of a helper that it starts where it hangs, in the file FAKE_PW_NOTES.
"""

import os
import re
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

HELLO = """
     Program PWSCF v.7.3.1 starts on 21Nov2026 at 12:00:00

     Parallel version (MPI), running on     1 processors
"""
ERROR = """
 %%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%
     Error in routine {} (1):
     {}
 %%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%

     stopping ...
"""
DONE = "\n   This run was terminated on:  12:00:01  21Nov2026\n\n   JOB DONE.\n"
SCF_CURES = {
    "scf": "mixing_beta      = 0.2",
    "local-TF": "local-TF",
    "plain": "mixing_beta      = 0.05",
    "hopeless": "never",
}
ERRORS = {
    "S matrix": ("cdiaghg", "S matrix not positive definite", "nbnd"),
    "bands": ("c_bands", "too many bands are not converged", "'cg'"),
    "ppcg": ("c_bands", "too many bands are not converged", "'ppcg'"),
    "cholesky": ("rdiaghg", "problems computing cholesky", "'cg'"),
    "charge": ("electrons", "charge is wrong", "'cg'"),
    "symmetry": ("checkallsym", "some of the original symmetry operations not satisfied", "nosym"),
    "memory": ("allocate_fft", "insufficient virtual memory for array", "diago_david_ndim"),
    "less memory": ("allocate_fft", "cannot allocate enough", "'cg'"),
    "davcio": ("davcio", "error writing file scratch/pw.wfc1", "never"),
    "input": ("read_namelists", 'bad line in namelist &system: "nspn = 2"', "never"),
}
"""Routine, message, and the words in the input that cure it."""
ONCE = {
    "disk": "forrtl: No space left on device",
    "crash": signal.SIGSEGV,
    "killed": signal.SIGKILL,
    "abort": "MPI_ABORT was invoked on rank 0 in communicator MPI_COMM_WORLD",
    "silent": "",
}
"""What happens in the first attempt alone."""
TURNS = ["", "scf", "", "garbage", "", "truncated", "nan", "", "silent", "symmetry", "", "hopeless"]


def main() -> None:
    note(os.getpid())
    if "-in" not in sys.argv:
        print(HELLO)
        return
    text = Path(sys.argv[sys.argv.index("-in") + 1]).read_text()
    mode = os.environ.get("FAKE_PW", "")
    if mode == "by turns":
        relaxing = '"relax"' in Path("../task.json").read_text()
        mode = "" if relaxing else TURNS[zlib.crc32(text.partition("ATOMIC_POSITIONS")[2].encode()) % len(TURNS)]
    Path("scratch/pw.save").mkdir(parents=True)
    answer(mode, text, first=Path.cwd().name == "attempt-1")


def note(pid: int) -> None:
    with Path(os.environ["FAKE_PW_NOTES"]).open("a") as notes:
        notes.write(f"{pid}\n")


def answer(mode: str, text: str, *, first: bool) -> None:
    if mode in ERRORS and ERRORS[mode][2] not in text:
        print(HELLO, ERROR.format(*ERRORS[mode][:2]))
        sys.exit(1)
    if mode in ONCE and first:
        sign = ONCE[mode]
        if isinstance(sign, signal.Signals):
            os.kill(os.getpid(), sign)
        print(sign, file=sys.stderr)
        sys.exit(0 if mode == "silent" else 1)
    if mode == "hang":
        note(subprocess.Popen(["sleep", "600"], process_group=0).pid)  # a helper in a process group of its own
        time.sleep(600)
    if mode == "garbage":
        print("\x00\x1b[31m!!  total energy \n JOB DONE.\n")
        return
    print(HELLO)
    if mode in SCF_CURES and SCF_CURES[mode] not in text:
        print("     estimated scf accuracy    <       0.03904423 Ry")
        print("     convergence NOT achieved after 100 iterations: stopping")
        print(DONE)
        sys.exit(2)
    results = emt(text)
    if mode == "nan":
        results["energy"] = float("nan")
    if mode == "stars":
        results["forces"] = [["*" * 13] * 3 for _ in results["forces"]]
    written = output(results)
    print(written[: len(written) // 2] if mode == "truncated" else written + DONE)


def emt(text: str) -> dict:
    """Read by hand, since importing ase.io takes half as long as all the rest."""
    import numpy as np
    from ase import Atoms
    from ase.calculators.emt import EMT
    from ase.units import Bohr, Ry

    after_cell, after_sites = (
        text.partition(f"{title} angstrom\n")[2] for title in ("CELL_PARAMETERS", "ATOMIC_POSITIONS")
    )
    cell = np.array(after_cell.split()[:9], float).reshape(3, 3)
    sites = re.findall(r"^([A-Z][a-z]?)\d*((?: +[-+\d.]+){3}) *$", after_sites, flags=re.MULTILINE)
    positions = np.array([numbers.split() for _, numbers in sites], float)
    atoms = Atoms([symbol for symbol, _ in sites], positions, cell=cell, pbc=True)
    atoms.calc = EMT()
    return {
        "energy": (atoms.get_potential_energy() - 100 * len(atoms)) / Ry,
        "forces": (atoms.get_forces() / Ry * Bohr).tolist(),
        "stress": (-atoms.get_stress(voigt=False) / Ry * Bohr**3).tolist(),
        "cell": (atoms.cell.array / Bohr).tolist(),
        "positions": (atoms.positions / Bohr).tolist(),
        "symbols": list(atoms.symbols),
    }


def output(results: dict) -> str:
    def numbers(row, form="14.8f"):
        return " ".join(x if isinstance(x, str) else format(x, form) for x in row)

    sites = "\n".join(
        f"  {number}  {symbol}  tau( {number}) = ( {numbers(position)} )"
        for number, (symbol, position) in enumerate(zip(results["symbols"], results["positions"], strict=True), 1)
    )
    cell = "\n".join(f"               a({i}) = ( {numbers(row)} )" for i, row in enumerate(results["cell"], 1))
    forces = "\n".join(
        f"     atom    {number} type  1   force = {numbers(force)}" for number, force in enumerate(results["forces"], 1)
    )
    stress = "\n".join(f" {numbers(row)}   0.0 0.0 0.0" for row in results["stress"])
    return f"""
     lattice parameter (alat)  =       1.0000  a.u.
     number of atoms/cell      =            {len(results["symbols"])}
     number of atomic types    =            1

     celldm(1)=   1.000000  celldm(2)=   0.000000  celldm(3)=   0.000000

     crystal axes: (cart. coord. in units of alat)
{cell}

     site n.     atom                  positions (alat units)
{sites}

     number of k points=     1
                       cart. coord. in units 2pi/alat
        k(    1) = (   0.0000000   0.0000000   0.0000000), wk =   2.0000000

     Self-consistent Calculation

     End of self-consistent calculation

          k = 0.0000 0.0000 0.0000 (   349 PWs)   bands (ev):

    -3.2659   4.7703

!    total energy              = {results["energy"]:17.8f} Ry
     convergence has been achieved in   8 iterations

     Forces acting on atoms (cartesian axes, Ry/au):

{forces}

     Total force =     0.000000     Total SCF correction =     0.000000

     Computing stress (Cartesian axis) and pressure

          total   stress  (Ry/bohr**3)                   (kbar)     P=        0.00
{stress}
"""


main()
