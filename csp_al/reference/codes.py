"""ABINIT and CP2K through ASE's calculators, with keywords that fit into a campaign file.

ASE's own calculators take an unconverged calculation for a result, and say little of why one failed; these read the
output for both. The k-points follow from the first geometry that a calculator is asked about, by spacing.

reference:
  kind: ase
  calculator: csp_al.reference.codes.abinit
  parameters: {pp_paths: /usr/share/abinit/psp/..., pps: psp8, xc: PBE, kspacing: 0.4, ecut: 300, tolvrs: 1.0e-8}
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from subprocess import CalledProcessError
from typing import TYPE_CHECKING, Any, Final

from ase.calculators import cp2k as ase_cp2k
from ase.calculators.abinit import Abinit as AseAbinit
from ase.calculators.abinit import AbinitProfile
from ase.calculators.calculator import all_changes

from csp_al.interfaces import Failure, ReferenceFailedError
from csp_al.reference.kpoints import monkhorst_pack

if TYPE_CHECKING:
    from ase import Atoms

ABINIT_ERROR: Final = re.compile(r": ERROR -\n(.*)|--- !ERROR.*?message: \|\n(.*?)\n\.\.\.", re.DOTALL)
ABINIT_UNCONVERGED: Final = "was not enough SCF cycles"
CP2K_ERROR: Final = re.compile(r"\n \*{60,}\n((?: \*.*\n)*? \* \[ABORT\].*\n(?: \*.*\n)*?) \*{60,}")
CP2K_DRAWING: Final = re.compile(r"\[ABORT\]|___|O/|/ |[*\\|]")
CP2K_UNCONVERGED: Final = "SCF run NOT converged"
MESH: Final = "{kpts}"


def abinit(pp_paths: str, kspacing: float, command: str = "abinit", **parameters: Any) -> Abinit:
    """ABINIT with pseudopotentials from the folder ``pp_paths``; kspacing in 1/Å (2 pi included).

    Further keywords are those of ASE's calculator: ecut, pawecutdg, tsmear and toldfe in eV, ABINIT's other variables
    in its own units. Give ``nsym: 1``: ABINIT refuses cells that are nearly symmetric. X. Gonze et al., Comput. Phys.
    Commun. 248, 107042 (2020), doi:10.1016/j.cpc.2019.107042.
    """
    _require(command)
    folder = Path(pp_paths).expanduser()
    if not folder.is_dir():
        raise ReferenceFailedError(f"pp_paths: there is no folder {folder}", Failure.CANNOT_RUN)
    return Abinit(AbinitProfile(command, pp_paths=str(folder)), kspacing, parameters)


def cp2k(kspacing: float, inp: str, command: str = "cp2k_shell", **parameters: Any) -> Cp2k:
    """CP2K by its shell; ``{kpts}`` in the input text becomes the mesh of this kspacing, 1/Å (2 pi included).

    Further keywords are those of ASE's calculator; its cutoff is in eV. T. D. Kühne et al., J. Chem. Phys. 152, 194103
    (2020), doi:10.1063/5.0007045.
    """
    _require(command)
    return Cp2k(kspacing, inp, command, parameters)


def _require(command: str) -> None:
    """Raise ReferenceFailedError where the program or launcher that a command begins with is not on this machine."""
    program = next(iter(shlex.split(command)), "")
    if shutil.which(program) is None:
        msg = f"command: {program or 'nothing'} is not on this machine; put it on PATH, or name it with its path"
        raise ReferenceFailedError(msg, Failure.CANNOT_RUN)


class Abinit(AseAbinit):
    """ASE's calculator, with a mesh by spacing and reasons."""

    def __init__(self, profile: AbinitProfile, kspacing: float, parameters: dict[str, Any]) -> None:
        self.kspacing = kspacing
        super().__init__(profile=profile, **parameters)

    def calculate(self, atoms: Atoms, properties: Sequence[str], system_changes: Sequence[str]) -> None:
        """Energy, forces and stress. Raises ReferenceFailedError."""
        self.parameters.setdefault("kpts", monkhorst_pack(atoms, self.kspacing))
        log = Path(self.directory) / "abinit.log"
        try:
            super().calculate(atoms, properties, system_changes)
        except CalledProcessError as error:
            found = ABINIT_ERROR.search(_text(log))
            raise ReferenceFailedError(f"ABINIT: {_tidy(found[1] or found[2])}" if found else str(error)) from error
        if ABINIT_UNCONVERGED in _text(log):
            raise ReferenceFailedError("SCF not converged: ABINIT ran out of steps (nstep)", Failure.SCF_NOT_CONVERGED)


class Cp2k(ase_cp2k.CP2K):
    """ASE's calculator, its shell started in the folder of the calculation, with a mesh by spacing and reasons."""

    _shell: Any  # ASE's

    def __init__(self, kspacing: float, inp: str, command: str, parameters: dict[str, Any]) -> None:
        self.kspacing, self.folder = kspacing, Path()
        self.template, self.plain_command = inp, command
        super().__init__(command=command, inp=inp, **parameters)
        self.close()  # ASE has started it in the current folder

    @property
    def directory(self) -> str:
        """Seen from where the shell runs: CP2K takes no path of more than 80 characters."""
        return "."

    @directory.setter
    def directory(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._directory = "."

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Energy, forces and stress. Raises ReferenceFailedError."""
        output = self.folder / "cp2k.out"
        if self._shell is None:
            mesh = " ".join(map(str, monkhorst_pack(atoms, self.kspacing)))
            self.parameters["inp"] = self.template.replace(MESH, mesh)
            self.command = f"cd {shlex.quote(str(self.folder))} && exec {self.plain_command}"
            output.unlink(missing_ok=True)
        try:
            super().calculate(atoms, properties, system_changes)
        except (AssertionError, ValueError, OSError) as error:
            self._end()
            found = CP2K_ERROR.search(_text(output))
            why = CP2K_DRAWING.sub(" ", found[1]) if found else f"{error!r}, see cp2k.out"
            raise ReferenceFailedError(f"CP2K: {_tidy(why)}") from error
        if CP2K_UNCONVERGED in _text(output):
            self._end()
            raise ReferenceFailedError("SCF not converged: CP2K ran out of steps (max_scf)", Failure.SCF_NOT_CONVERGED)

    def _end(self) -> None:
        """Kill the shell: after an error it would wait, at full speed, for what never comes."""
        shell, self._shell, self._force_env_id = self._shell, None, None
        if shell is not None and shell._child is not None:  # noqa: SLF001 - ASE has no other way
            shell._child.kill()  # noqa: SLF001
            shell._child.communicate()  # noqa: SLF001
            shell._child, shell.isready = None, False  # noqa: SLF001


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _tidy(text: str) -> str:
    return " ".join(text.split())[:300]
