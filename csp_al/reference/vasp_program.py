"""VASP as a program: its input written by ASE, run, read, and asked for its version."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ase.calculators.vasp import Vasp as AseVasp
from ase.calculators.vasp.create_input import count_symbols

from csp_al.reference.programs import SCRATCH, ask, is_another, run
from csp_al.reference.vasp_output import results_of
from csp_al.structure_files import read_text

if TYPE_CHECKING:
    from ase import Atoms

    from csp_al.reference.potcars import Potcar
    from csp_al.reference.vasp import VaspReference

PROGRAM: Final = "vasp_std"
OUTPUT, ERRORS = "vasp.out", "vasp.err"
VERSION: Final = re.compile(r"\bvasp\.(\d[\w.]*)")
WORDS: Final = re.compile(r"INCAR|POSCAR|\bVASP\b|running on\s+\d+")
"""Of those that VASP says without input, one stands there."""
KEPT: Final = ("INCAR", "KPOINTS", "POSCAR", "OUTCAR", "OSZICAR", "vasprun.xml")
"""Of what it leaves. The rest is large, or, as the POTCAR, not to be handed on with a run directory."""

DEFAULTS: Final[Mapping[str, Any]] = {
    "prec": "Accurate", "algo": "Normal", "ismear": 0, "ediff": 1e-6, "nelm": 100, "lreal": False, "lasph": True,
}  # fmt: skip
"""Our choice where VASP's own does not suit thousands of random cells; the user's ``incar`` overrides it."""
FIXED: Final[Mapping[str, Any]] = {"ibrion": -1, "nsw": 0, "isif": 2, "istart": 0, "icharg": 2} | dict.fromkeys(
    ("lwave", "lcharg"), False
)


def incar_of(section: VaspReference) -> dict[str, Any]:
    """The keys of the INCAR of a single point, as ASE takes them; the section has its cutoff written out."""
    given = {key: value for key, value in section.incar.items() if key != "magmom"}
    return {**DEFAULTS, "sigma": section.smearing, **given, **FIXED, "encut": section.encut}


class VaspProgram(AseVasp):
    """ASE's calculator with datasets found by us, a process that dies with us, and reasons for failures."""

    def __init__(self, command: Sequence[str], found: Mapping[str, Potcar], directory: Path, **settings: Any) -> None:
        self.argv, self.found = list(command), found
        super().__init__(directory=str(directory / SCRATCH), command=shlex.join(command), txt=None, **settings)

    def _build_pp_list(self, atoms: Atoms, setups: Any = None, special_setups: Sequence[int] = ()) -> list[str]:  # noqa: ARG002 - ASE's
        """The dataset of each species, in the order of the POSCAR."""
        symbols, _ = count_symbols(atoms, exclude=special_setups)
        return [str(self.found[symbol].path) for symbol in symbols]

    def write_potcar(self, suffix: str = "", directory: str = "./") -> None:
        """Write them one after the other."""
        text = "".join(read_text(Path(path)) for path in self.ppp_list)
        (Path(directory) / f"POTCAR{suffix}").write_text(text, encoding="utf-8")

    def _run(self, command: str | None = None, out: Any = None, directory: str | None = None) -> tuple[int, str]:  # noqa: ARG002 - ASE's
        """Run VASP and read what it left. Raises ReferenceFailedError with the reason where that is no result."""
        scratch = Path(directory or self.directory)
        folder = scratch.parent
        try:
            status = run(self.argv, scratch, f"../{OUTPUT}", f"../{ERRORS}")
            said, cried = (read_text(folder / name) for name in (OUTPUT, ERRORS))
            self.read = results_of(scratch, status, said, cried)
        finally:
            for path in (scratch / name for name in KEPT):
                if path.is_file():
                    path.replace(folder / path.name)
            shutil.rmtree(scratch, ignore_errors=True)
        return 0, ""

    def read_results(self) -> None:
        """Energy, forces and stress, atoms in the order in which they were given."""
        self.results = self.read | {"forces": self.read["forces"][self.resort]}


@cache
def version_of(command: tuple[str, ...]) -> str:
    """What VASP says when it is started with an empty INCAR; "unknown" where it does not tell its version then.

    Raises ReferenceFailedError if it does not start, or is none.
    """
    said = ask(command, PROGRAM, {"INCAR": "SYSTEM = which version is this\n"})
    found = VERSION.search(said)
    if not found and not WORDS.search(said):
        raise is_another(command, "VASP", said)
    return found[1] if found else "unknown"
