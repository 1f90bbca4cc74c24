"""VASP as the reference, through ASE's calculator.

G. Kresse, J. Furthmüller, Phys. Rev. B 54, 11169 (1996), doi:10.1103/PhysRevB.54.11169. Written for 5.4.4 and 6.x.

The k-points follow from the geometry that a calculator is made for and stay as they are while a relaxation changes
the cell; the plane waves are chosen anew for every cell, at the same cutoff. The energy is VASP's free energy, whose
derivatives the forces are.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import Field, field_validator, model_validator

from csp_al.campaign.errors import Finding, Misfit
from csp_al.campaign.machine import Machine
from csp_al.campaign.references import ReferenceSection
from csp_al.campaign.section import Positive
from csp_al.interfaces import Cure, Failure, ReferenceFailedError, ReferenceKind
from csp_al.reference import potcars
from csp_al.reference.cutoffs import meant_in_ev
from csp_al.reference.kpoints import monkhorst_pack
from csp_al.reference.potcars import Potcar, PotcarError

if TYPE_CHECKING:
    from ase import Atoms

    from csp_al.reference.vasp_program import VaspProgram

ABOVE_ENMAX: Final = 1.3
"""Cutoff over the largest ENMAX: VASP's manual asks for 30% more where the cell changes, or the stress is wrong."""
FOLDERS: Final = ("VASP_PP_PATH", "PMG_VASP_PSP_DIR")
"""Variables that name the folder of the datasets, ASE's and pymatgen's."""


def _incar(**settings: Any) -> dict[str, Any]:
    return {"incar": settings}


_UNCONVERGED: Final = frozenset({Failure.SCF_NOT_CONVERGED})
_BANDS: Final = frozenset({Failure.DIAGONALISATION, Failure.WRONG_CHARGE})
_CRASHED: Final = frozenset(
    {Failure.KILLED, Failure.CRASHED, Failure.NO_OUTPUT, Failure.INCOMPLETE_OUTPUT, Failure.MPI}
)

LADDER: Final = (
    Cure(_UNCONVERGED, "more electronic steps", _incar(nelm=300)),
    Cure(
        _UNCONVERGED, "slower mixing, blocked Davidson alone",
        _incar(algo="Normal", nelm=300, amix=0.1, bmix=0.01, nelmdl=-12),
    ),
    Cure(_UNCONVERGED | _BANDS, "all bands at once, by conjugate gradients", _incar(algo="All", nelm=300)),
    Cure(_BANDS, "LAPACK instead of ScaLAPACK", _incar(algo="Normal", lscalapack=False, lscalu=False)),
    Cure(frozenset({Failure.SYMMETRY}), "no symmetry", _incar(isym=0)),
    Cure(frozenset({Failure.OUT_OF_MEMORY, Failure.KILLED}), "a smaller workspace", _incar(nsim=1, kpar=1)),
    Cure(frozenset({Failure.DISK_FULL}), "once more: others may have made room"),
    Cure(_CRASHED, "once more, as it was"),
)  # fmt: skip
"""For the reasons that `csp_al.reference.vasp_output` gives.

What custodian (VaspErrorHandler, UnconvergedErrorHandler) does for the same failures, less what changes the answer:
no other smearing, cutoff or mesh.
"""


class VaspReference(ReferenceSection):
    """VASP."""

    curable: ClassVar[tuple[str, ...]] = ("incar", "time_limit")

    kind: Literal["vasp"]
    pseudo_dir: str | None = Field(
        None,
        description="folder that holds potpaw_PBE or POT_GGA_PAW_PBE, seen from this file; null: the machine file's, "
        "VASP_PP_PATH or PMG_VASP_PSP_DIR",
    )
    pp: str = Field("PBE", min_length=1, description="family of PAW datasets: PBE, LDA, PBE.64, or a folder there")
    setups: dict[str, str] = Field(
        default_factory=dict, description="datasets by element, e.g. {Na: Na_pv}; the others: as the element itself"
    )
    checksums: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of the POTCARs by element; the others: as found when it begins"
    )
    encut: Positive | None = Field(None, description="eV; null: 1.3 times the highest ENMAX of the POTCARs")
    kspacing: Positive = Field(0.3, description="1/Å (2 pi included), largest distance between k-points")
    smearing: Positive = Field(0.1, description="eV, SIGMA of a Gaussian; other kinds: incar.ismear")
    incar: dict[str, Any] = Field(
        default_factory=dict,
        description="further keys, e.g. {ispin: 2, magmom: {Fe: 5.0}, ldau_luj: {Fe: {L: 2, U: 4.0, J: 0}}}",
    )

    def senseless(self) -> Iterator[Finding]:
        """A cutoff that is meant in another unit."""
        if self.encut and (message := meant_in_ev(self.encut)):
            yield Finding(("encut",), message)

    @field_validator("incar")
    @classmethod
    def _lower_case(cls, value: dict[str, Any]) -> dict[str, Any]:
        from csp_al.reference.incar import in_lower_case

        return in_lower_case(value)

    @model_validator(mode="after")
    def _vasp_knows_the_keys(self) -> VaspReference:
        if not self.incar:
            return self
        from csp_al.reference.incar import wrong_keys

        findings = [Finding(("incar", *found.key), found.message, found.at_key) for found in wrong_keys(self.incar)]
        if findings:
            raise Misfit(findings)
        return self


@dataclass(frozen=True)
class Vasp:
    """VASP as a `csp_al.interfaces.Reference`; ``base`` is the folder that pseudo_dir is seen from."""

    section: VaspReference
    species: Sequence[str] = ()
    machine: Machine = field(default_factory=Machine)
    base: Path = Path()
    name: str = "vasp"

    def calculator(self, atoms: Atoms, directory: Path) -> VaspProgram:
        """VASP for these atoms. Raises ReferenceFailedError for a dataset that is not the campaign's."""
        from csp_al.reference.vasp_program import PROGRAM, VaspProgram, incar_of

        try:
            found = self._find(list(dict.fromkeys(atoms.symbols)))
        except PotcarError as error:
            raise ReferenceFailedError(str(error), Failure.AWAY) from error
        for element, potcar in found.items():
            if message := self._changed(element, potcar):
                raise ReferenceFailedError(message)
        settings = incar_of(self.section.model_copy(update={"encut": self.section.encut or _cutoff(found)}))
        if moments := self.section.incar.get("magmom"):
            settings["magmom"] = [float(moments.get(symbol, 0.0)) for symbol in atoms.symbols]
        return VaspProgram(
            self.machine.command(PROGRAM),
            found,
            directory,
            pp=self.section.pp,
            kpts=tuple(self.kpoints(atoms)),
            gamma=True,
            **settings,
        )

    def kpoints(self, atoms: Atoms) -> list[int]:
        """Divisions of the mesh of k-points for this cell."""
        return monkhorst_pack(atoms, self.section.kspacing)

    def check(self) -> list[tuple[str, str]]:
        """What is wrong with datasets and program; starts VASP for a moment."""
        return [*self._wrong_datasets(), *self._wrong_elements(), *self._wrong_program()]

    def warnings(self) -> list[tuple[str, str]]:
        """A cutoff below what the datasets ask for; keys that VASP may not know."""
        from csp_al.reference.incar import unknown_keys

        hardest = max(self.found.values(), key=lambda potcar: potcar.enmax)
        given = self.section.encut
        low = (
            f"{given:g} eV is below the {hardest.enmax:g} eV that the POTCAR of {hardest.title} asks for"
            if given
            else ""
        )
        return [
            *([("encut", low)] if given and given < hardest.enmax else []),
            *(
                ("incar", f"{key}: neither ASE nor pymatgen knows it; VASP may not")
                for key in unknown_keys(self.section.incar)
            ),
        ]

    def pinned(self) -> VaspReference:
        """The section with datasets, checksums and cutoff written out: all that a result depends on."""
        return self.section.model_copy(
            update={
                "setups": {element: self.section.setups.get(element, element) for element in self.found},
                "checksums": {element: _checksum(potcar.path) for element, potcar in self.found.items()},
                "encut": self.section.encut or _cutoff(self.found),
            }
        )

    def versions(self) -> dict[str, str]:
        """What runs, for the record."""
        from csp_al.reference.vasp_program import PROGRAM, version_of

        return {PROGRAM: version_of(tuple(self.machine.command(PROGRAM)))}

    @cached_property
    def folder(self) -> Path | None:
        """Where the datasets are; None where nobody says."""
        if self.section.pseudo_dir is not None:
            return self.base / Path(self.section.pseudo_dir).expanduser()
        said = [self.machine.pseudo_dir, *map(os.environ.get, FOLDERS), _of_pymatgen()]
        return next((Path(place).expanduser() for place in said if place), None)

    @cached_property
    def found(self) -> dict[str, Potcar]:
        """The dataset of each species. Raises PotcarError."""
        return self._find(self.species)

    def _find(self, elements: Sequence[str]) -> dict[str, Potcar]:
        if self.folder is None:
            raise PotcarError(f"missing; name the folder of your POTCARs here, or set {' or '.join(FOLDERS)}")
        return potcars.find(self.folder, self.section.pp, elements, self.section.setups)

    def _changed(self, element: str, potcar: Potcar) -> str:
        expected = self.section.checksums.get(element)
        if expected is None or expected == _checksum(potcar.path):
            return ""
        return f"the POTCAR of {element} ({potcar.title}) is not the one that checksums tell of ({expected[:12]}...)"

    def _wrong_datasets(self) -> list[tuple[str, str]]:
        try:
            found = self.found
        except PotcarError as error:
            return [("setups" if self.folder and self.folder.is_dir() else "pseudo_dir", str(error))]
        wrong = [("checksums", message) for element, p in found.items() if (message := self._changed(element, p))]
        if len({potcar.functional for potcar in found.values()}) > 1:
            made = ", ".join(f"{potcar.title}: {potcar.functional}" for potcar in found.values())
            wrong.append(("setups", f"made for different functionals ({made}); take them from one family"))
        return wrong

    def _wrong_elements(self) -> list[tuple[str, str]]:
        named = {
            "setups": self.section.setups,
            **{key: self.section.incar.get(key, {}) for key in ("magmom", "ldau_luj")},
        }
        known = ", ".join(self.species)
        return [
            ("setups" if key == "setups" else "incar", f"{key}: {', '.join(others)} is none of {known}")
            for key, by_element in named.items()
            if (others := sorted(set(by_element) - set(self.species)))
        ]

    def _wrong_program(self) -> list[tuple[str, str]]:
        try:
            self.versions()
        except ReferenceFailedError as error:
            return [("kind", str(error))]
        return []


def _cutoff(found: dict[str, Potcar]) -> float:
    return ABOVE_ENMAX * max(potcar.enmax for potcar in found.values())


def _checksum(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _of_pymatgen() -> str | None:
    """The folder that ``~/.config/.pmgrc.yaml`` names."""
    from pymatgen.core import SETTINGS

    place: str | None = SETTINGS.get(FOLDERS[1])
    return place


def _prepare(_: VaspReference) -> None:
    importlib.import_module("csp_al.reference.vasp_program")


def _is_pbe(reference: Vasp) -> bool:
    """Whether datasets and input ask for plain PBE; what else they ask for has no one name."""
    changed = {"gga", "metagga", "lhfcalc", "ivdw", "luse_vdw"} & {key.lower() for key in reference.section.incar}
    return not changed and all(potcar.functional == "PE" for potcar in reference.found.values())


KIND: Final = ReferenceKind(
    section=VaspReference,
    build=lambda section, species, machine, base: Vasp(section, tuple(species), machine, base),
    prepare=_prepare,
    foreign_code=lambda _: "",
    ladder=LADDER,
    places=("pseudo_dir",),
    functional=lambda reference: "PBE" if _is_pbe(reference) else None,
    bytes_per_task=1_000_000,
)
