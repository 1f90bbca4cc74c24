"""Quantum ESPRESSO's pw.x as the reference, through ASE's calculator.

P. Giannozzi et al., J. Phys.: Condens. Matter 29, 465901 (2017), doi:10.1088/1361-648X/aa8f79. Works with 6.7 and 7.x.

The k-points follow from the geometry that a calculator is made for and stay as they are while a relaxation changes
the cell; the plane waves are chosen anew for every cell, at the same cutoff. The energy is pw.x's total energy, which
with smearing is the free energy whose derivatives the forces are.
"""

from __future__ import annotations

import importlib
import os
import shlex
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
from csp_al.reference import pseudopotentials
from csp_al.reference.cutoffs import meant_in_rydberg
from csp_al.reference.kpoints import monkhorst_pack
from csp_al.reference.pseudopotentials import Pseudopotential, PseudopotentialError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.espresso import Espresso as AseEspresso

SAME_RYDBERG: Final = 1e-6


def _electrons(**settings: Any) -> dict[str, Any]:
    return {"namelists": {"electrons": settings}}


_UNCONVERGED: Final = frozenset({Failure.SCF_NOT_CONVERGED})
_BANDS: Final = frozenset({Failure.DIAGONALISATION, Failure.WRONG_CHARGE, Failure.FERMI_ENERGY})
_CRASHED: Final = frozenset(
    {Failure.KILLED, Failure.CRASHED, Failure.NO_OUTPUT, Failure.INCOMPLETE_OUTPUT, Failure.SCRATCH, Failure.MPI}
)

LADDER: Final = (
    Cure(
        _UNCONVERGED, "slower mixing, more steps",
        _electrons(mixing_beta=0.2, electron_maxstep=200),
    ),
    Cure(
        _UNCONVERGED, "local Thomas-Fermi mixing of more steps",
        _electrons(mixing_mode="local-TF", mixing_beta=0.2, mixing_ndim=12, electron_maxstep=200),
    ),
    Cure(
        _UNCONVERGED, "conjugate gradients, very slow plain mixing",
        _electrons(diagonalization="cg", mixing_mode="plain", mixing_beta=0.05, electron_maxstep=500),
    ),
    Cure(
        _BANDS, "more bands",
        {"bands": 1.6},
    ),
    Cure(
        _BANDS, "conjugate gradients",
        _electrons(diagonalization="cg", diago_cg_maxiter=100),
    ),
    Cure(
        frozenset({Failure.DIAGONALISATION}), "projected preconditioned conjugate gradients, random first waves",
        _electrons(diagonalization="ppcg", startingwfc="random"),
    ),
    Cure(
        frozenset({Failure.SYMMETRY}), "no symmetry",
        {"namelists": {"system": {"nosym": True, "noinv": True}}},
    ),
    Cure(
        frozenset({Failure.OUT_OF_MEMORY, Failure.KILLED}), "a smaller workspace",
        _electrons(diago_david_ndim=2),
    ),
    Cure(
        frozenset({Failure.OUT_OF_MEMORY}), "conjugate gradients, which need the least memory",
        _electrons(diagonalization="cg"),
    ),
    Cure(frozenset({Failure.DISK_FULL}), "once more: others may have made room"),
    Cure(_CRASHED, "once more, as it was"),
)  # fmt: skip
"""For the reasons that `csp_al.reference.pw_output` gives.

What aiida-quantumespresso (PwBaseWorkChain) and custodian do for the same failures, less what changes the answer.
"""


class EspressoReference(ReferenceSection):
    """Quantum ESPRESSO's pw.x."""

    curable: ClassVar[tuple[str, ...]] = ("namelists", "bands", "time_limit")

    kind: Literal["espresso"]
    pseudo_dir: str | None = Field(
        None,
        description="folder of the pseudopotentials, seen from this file; null: the machine file's, or ESPRESSO_PSEUDO",
    )
    pseudopotentials: dict[str, str] = Field(
        default_factory=dict,
        description="files by element, e.g. {Si: Si.upf}; the others: the one file whose name begins with the element",
    )
    checksums: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of the files by element; the others: as found when a campaign begins"
    )
    ecutwfc: Positive | None = Field(None, description="Ry; null: the highest that a pseudopotential suggests")
    ecutrho: Positive | None = Field(None, description="Ry; null: as suggested, at least 4 x ecutwfc, 8 x if ultrasoft")
    kspacing: Positive = Field(0.3, description="1/Å (2 pi included), largest distance between k-points")
    smearing: Positive = Field(0.1, description="eV, width of a Gaussian; other kinds: namelists.system.smearing")
    bands: Positive | None = Field(None, description="bands for each pair of valence electrons; null: pw.x decides")
    namelists: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="further input, e.g. {system: {nspin: 2, starting_magnetization(Fe): 0.5}, electrons: {...}}",
    )
    cards: tuple[str, ...] = Field((), description="further lines below the namelists, e.g. of HUBBARD (7.1 or newer)")

    def senseless(self) -> Iterator[Finding]:
        """A cutoff that is meant in another unit."""
        if self.ecutwfc and (message := meant_in_rydberg(self.ecutwfc)):
            yield Finding(("ecutwfc",), message)

    @field_validator("namelists")
    @classmethod
    def _lower_case(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        from csp_al.reference.namelists import in_lower_case

        return in_lower_case(value)

    @model_validator(mode="after")
    def _pw_knows_the_keys(self) -> EspressoReference:
        if not self.namelists:
            return self
        from csp_al.reference.namelists import wrong_keys

        findings = [
            Finding(("namelists", *found.key), found.message, found.at_key) for found in wrong_keys(self.namelists)
        ]
        if findings:
            raise Misfit(findings)
        return self


@dataclass(frozen=True)
class Espresso:
    """pw.x as a `csp_al.interfaces.Reference`; ``base`` is the folder that pseudo_dir is seen from."""

    section: EspressoReference
    species: Sequence[str] = ()
    machine: Machine = field(default_factory=Machine)
    base: Path = Path()
    name: str = "espresso"

    def calculator(self, atoms: Atoms, directory: Path) -> AseEspresso:
        """pw.x for these atoms. Raises ReferenceFailedError for a pseudopotential that is not the campaign's."""
        from ase.calculators.espresso import Espresso as AseEspresso
        from ase.calculators.espresso import EspressoProfile

        from csp_al.reference.pw_program import PROGRAM, PwTemplate, input_of

        found = pseudopotentials.find(self.folder, dict.fromkeys(atoms.symbols), self.section.pseudopotentials)
        for element, pseudo in found.items():
            if message := self._changed(element, pseudo.path):
                raise ReferenceFailedError(message)
        pinned = Espresso(self.section, tuple(found), self.machine, self.base).pinned()
        calculator = AseEspresso(
            profile=EspressoProfile(shlex.join(self.machine.command(PROGRAM)), self.folder.resolve()),
            directory=directory,
            pseudopotentials={element: self._name(pseudo) for element, pseudo in found.items()},
            # a mesh even for Gamma alone: what pw.x 6.7 does there in half the time may end in another state
            kpts=tuple(self.kpoints(atoms)),
            input_data=input_of(pinned, atoms, found),
            additional_cards=list(self.section.cards),
        )
        calculator.template = PwTemplate()
        return calculator

    def kpoints(self, atoms: Atoms) -> list[int]:
        """Divisions of the mesh of k-points for this cell."""
        return monkhorst_pack(atoms, self.section.kspacing)

    def check(self) -> list[tuple[str, str]]:
        """What is wrong with pseudopotentials and program; runs pw.x for a moment."""
        return [*self._wrong_pseudopotentials(), *self._wrong_elements(), *self._wrong_program()]

    def warnings(self) -> list[tuple[str, str]]:
        """A cutoff below what the pseudopotentials suggest; spin that nothing starts."""
        return [*self._low_cutoff(), *self._no_moments()]

    def _low_cutoff(self) -> list[tuple[str, str]]:
        suggested, _ = pseudopotentials.suggested_cutoffs(self.found)
        given = self.section.ecutwfc
        if given is None or suggested is None or given > suggested - SAME_RYDBERG:
            return []
        hardest = max(self.found.values(), key=lambda pseudo: pseudo.ecutwfc or 0)
        return [("ecutwfc", f"{given:g} Ry is below the {suggested:g} Ry that {hardest.path.name} suggests")]

    def _no_moments(self) -> list[tuple[str, str]]:
        system = self.section.namelists.get("system", {})
        if system.get("nspin", 1) != 2 or any(key.startswith("starting_magnetization") for key in system):
            return []
        return [("namelists", "nspin is 2 without a starting_magnetization: such a calculation stays without moments")]

    def pinned(self) -> EspressoReference:
        """The section with files, checksums and cutoffs written out: all that a result depends on."""
        suggested, density = pseudopotentials.suggested_cutoffs(self.found)
        waves = self.section.ecutwfc or suggested
        assert waves is not None  # `check` asks for it
        factor = max(pseudo.density_factor for pseudo in self.found.values())
        return self.section.model_copy(
            update={
                "pseudopotentials": {element: self._name(pseudo) for element, pseudo in self.found.items()},
                "checksums": {element: pseudopotentials.checksum(p.path) for element, p in self.found.items()},
                "ecutwfc": waves,
                "ecutrho": self.section.ecutrho or max(factor * waves, density or 0),
            }
        )

    def versions(self) -> dict[str, str]:
        """What runs, for the record."""
        from csp_al.reference.pw_program import PROGRAM, version_of

        return {PROGRAM: version_of(tuple(self.machine.command(PROGRAM)))}

    @cached_property
    def folder(self) -> Path:
        """Where the pseudopotentials are."""
        if self.section.pseudo_dir is not None:
            return self.base / Path(self.section.pseudo_dir).expanduser()
        return Path(self.machine.pseudo_dir or os.environ.get("ESPRESSO_PSEUDO") or ".").expanduser()

    @cached_property
    def found(self) -> dict[str, Pseudopotential]:
        """The pseudopotential of each species. Raises PseudopotentialError."""
        return pseudopotentials.find(self.folder, self.species, self.section.pseudopotentials)

    def _name(self, pseudo: Pseudopotential) -> str:
        """Of its file, seen from the folder."""
        return os.path.relpath(pseudo.path, self.folder)

    def _changed(self, element: str, path: Path) -> str:
        expected = self.section.checksums.get(element)
        if expected is None or expected == pseudopotentials.checksum(path):
            return ""
        return f"{path.name} of {element} is not the file that checksums tell of (SHA-256 {expected[:12]}...)"

    def _wrong_pseudopotentials(self) -> list[tuple[str, str]]:
        if not (self.section.pseudo_dir or self.machine.pseudo_dir or os.environ.get("ESPRESSO_PSEUDO")):
            return [("pseudo_dir", "missing; name the folder of your pseudopotentials here, or set ESPRESSO_PSEUDO")]
        try:
            found = self.found
        except PseudopotentialError as error:
            return [("pseudopotentials" if self.folder.is_dir() else "pseudo_dir", str(error))]
        wrong = [("checksums", message) for element, p in found.items() if (message := self._changed(element, p.path))]
        kinds = {pseudo.functional for pseudo in found.values()}
        if len(kinds) > 1 and "input_dft" not in self.section.namelists.get("system", {}):
            made = ", ".join(f"{pseudo.path.name}: {pseudo.functional}" for pseudo in found.values())
            remedy = "take them from one family, or name the functional in namelists.system.input_dft"
            wrong.append(("pseudopotentials", f"made for different functionals ({made}); {remedy}"))
        if self.section.ecutwfc is None and pseudopotentials.suggested_cutoffs(found)[0] is None:
            silent = ", ".join(pseudo.path.name for pseudo in found.values() if pseudo.ecutwfc is None)
            wrong.append(("ecutwfc", f"missing, and {silent} suggests none; give one in Ry"))
        return wrong

    def _wrong_elements(self) -> list[tuple[str, str]]:
        from csp_al.reference.namelists import elements_in

        wrong = {key: sorted(s - set(self.species)) for key, s in elements_in(self.section.namelists).items()}
        known = ", ".join(self.species)
        return [
            ("namelists", f"{key}: {', '.join(others)} is none of {known}") for key, others in wrong.items() if others
        ]

    def _wrong_program(self) -> list[tuple[str, str]]:
        try:
            self.versions()
        except ReferenceFailedError as error:
            return [("kind", str(error))]
        return []


def _prepare(_: EspressoReference) -> None:
    importlib.import_module("csp_al.reference.pw_program")


def _functional(reference: Espresso) -> str | None:
    """The one that is named, or that of all pseudopotentials."""
    named = reference.section.namelists.get("system", {}).get("input_dft")
    kinds = {named} if named else {pseudo.functional for pseudo in reference.found.values()}
    return kinds.pop() if len(kinds) == 1 else None


KIND: Final = ReferenceKind(
    section=EspressoReference,
    build=lambda section, species, machine, base: Espresso(section, tuple(species), machine, base),
    prepare=_prepare,
    foreign_code=lambda _: "",
    ladder=LADDER,
    places=("pseudo_dir",),
    functional=_functional,
    bytes_per_task=40_000,
)
