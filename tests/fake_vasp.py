"""A VASP that answers with ASE's EMT, and that breaks in ways in which the real one does.

FAKE_VASP names the way; "by turns" takes one by the atoms, so that some of a campaign's labels break, and none of its
relaxations. It notes its process in the file FAKE_VASP_NOTES.
"""

import os
import re
import signal
import sys
import time
import zlib
from pathlib import Path

HELLO = """ running on    1 total cores
 distr:  one band on    1 cores,    1 groups
 vasp.6.4.2 20Jul23 (build Jul 1 2024) complex
"""
ERROR = """ -----------------------------------------------------------------------------
|     EEEEEEE  RRRRRR   RRRRRR   OOOOOOO  RRRRRR      ###     ###     ###     |
|     {:<71}|
 -----------------------------------------------------------------------------
"""
CURES = {
    "steps": ("NELM = 300",),
    "mixing": ("AMIX = 0.100000",),
    "all": ("ALGO = All",),
    "hopeless": ("never",),
}
"""What the electrons need to converge."""
ERRORS = {
    "zhegv": ("Error EDDDAV: Call to ZHEGV failed. Returncode =  7 2  8", "ALGO = All"),
    "scalapack": ("LAPACK: Routine ZPOTRF failed! 5 1", "LSCALAPACK = .FALSE."),
    "brmix": ("BRMIX: very serious problems the old and the new charge density differ", "ALGO = All"),
    "symmetry": ("inverse of rotation matrix was not found (increase SYMPREC) 2", "ISYM = 0"),
    "memory": ("forrtl: severe (41): insufficient virtual memory", "NSIM = 1"),
}
"""What it prints, and the line of the INCAR that cures it."""
ONCE = {"killed": signal.SIGKILL, "crash": signal.SIGSEGV}
"""What happens in the first attempt alone."""
TURNS = ["", "steps", "", "cut off", "", "no end", "nan", "", "symmetry", "", "hopeless"]


def main() -> None:
    note(os.getpid())
    incar = Path("INCAR").read_text()
    print(HELLO, flush=True)
    if not Path("POSCAR").exists():
        print(ERROR.format("No POSCAR found, STOPPING"))
        sys.exit(1)
    if not Path("POTCAR").read_text() or species("POTCAR") != Path("POSCAR").read_text().splitlines()[5].split():
        print(ERROR.format("number of potentials on File POTCAR incompatible with number of species"))
        sys.exit(1)
    mode = os.environ.get("FAKE_VASP", "")
    if mode == "by turns":
        relaxing = '"relax"' in Path("../../task.json").read_text()
        mode = "" if relaxing else TURNS[zlib.crc32(Path("POSCAR").read_bytes()) % len(TURNS)]
    Path("WAVECAR").write_bytes(b"\0" * 1000)
    answer(mode, incar, first=Path.cwd().parent.name == "attempt-1")


def note(pid: int) -> None:
    with Path(os.environ["FAKE_VASP_NOTES"]).open("a") as notes:
        notes.write(f"{pid}\n")


def species(name: str) -> list[str]:
    return re.findall(r"VRHFIN =(\w+):", Path(name).read_text())


def answer(mode: str, incar: str, *, first: bool) -> None:
    lines = [" ".join(line.split()) for line in incar.splitlines()]
    if mode in ERRORS and ERRORS[mode][1] not in lines:
        print(ERROR.format(ERRORS[mode][0]))
        sys.exit(1)
    if mode in ONCE and first:
        os.kill(os.getpid(), ONCE[mode])
    if mode == "hang":
        time.sleep(600)
    nelm = int(next(line.split()[2] for line in lines if line.startswith("NELM =")))
    converges = mode not in CURES or any(cure in lines for cure in CURES[mode])
    text = vasprun(nelm, 9 if converges else nelm, mode)
    Path("vasprun.xml").write_text(text[: 2 * len(text) // 3] if mode == "cut off" else text)
    end = "" if mode == "no end" else " General timing and accounting\n"
    Path("OUTCAR").write_text(f" vasp.6.4.2 20Jul23\n{end}")


def vasprun(nelm: int, steps: int, mode: str) -> str:
    from ase import Atoms
    from ase.calculators.emt import EMT
    from ase.units import GPa

    words = [line.split() for line in Path("POSCAR").read_text().splitlines()]  # by hand: ase.io is slow to import
    symbols = [symbol for symbol, count in zip(words[5], words[6], strict=True) for _ in range(int(count))]
    positions, cell = (
        [[float(x) for x in row[:3]] for row in rows] for rows in (words[8 : 8 + len(symbols)], words[2:5])
    )
    atoms = Atoms(symbols, positions, cell=cell, pbc=True)
    atoms.calc = EMT()
    energy = "NaN" if mode == "nan" else f"{atoms.get_potential_energy() - 100 * len(atoms):.10f}"
    stress = -10 * atoms.get_stress(voigt=False) / GPa

    def rows(name: str, values) -> str:
        lines = "".join(f"<v> {x:.9f} {y:.9f} {z:.9f} </v>" for x, y, z in values)
        return f'<varray name="{name}">{lines}</varray>'

    names = "".join(f"<rc><c>{symbol}</c><c>1</c></rc>" for symbol in atoms.symbols)
    structure = f"<structure><crystal>{rows('basis', atoms.cell.array)}</crystal>"
    structure += f"{rows('positions', atoms.get_scaled_positions())}</structure>"
    value = f'<energy><i name="e_fr_energy"> {energy} </i><i name="e_0_energy"> 0.0 </i></energy>'
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
<incar><i type="int" name="NELM"> {nelm} </i></incar>
<atominfo><array name="atoms"><set>{names}</set></array></atominfo>
{structure}
<calculation>
{steps * f"<scstep>{value}</scstep>"}
{structure}
{rows("forces", atoms.get_forces())}
{rows("stress", stress)}
{value}
</calculation>
</modeling>
"""


main()
