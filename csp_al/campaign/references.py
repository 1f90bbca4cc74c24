"""What a campaign file may say of the reference method: one section for each kind, and what is tried when it fails."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from csp_al.campaign.errors import Finding, Misfit, shown
from csp_al.campaign.namelists import in_lower_case, wrong_keys
from csp_al.campaign.section import Fraction, Positive, Section

CURABLE = ("namelists", "bands", "parameters", "time_limit")
"""Keys of a reference section that a remedy may set: how the answer is looked for, and for how long."""


class Remedy(Section):
    """One row of a retry ladder: what a failed calculation is tried again with."""

    when: str = Field(description="regular expression, looked for in the reason")
    say: Annotated[str, Field(min_length=1)] = Field(description="what is done, in words")
    set: dict[str, Any] = Field(default_factory=dict, description="keys of the reference section that change")

    @field_validator("when")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            msg = f"{shown(value)!r} is no regular expression ({error})"
            raise ValueError(msg) from error
        return value


class ReferenceSection(Section):
    """What every reference has."""

    time_limit: Positive = Field(3600, description="s, wall time of one evaluation; a longer one has failed")
    max_force: Positive = Field(100, description="eV/Å, a label with a larger force trains nothing")
    max_stress: Positive = Field(20, description="eV/Å^3 (160 GPa are 1), a label with a larger one trains nothing")
    max_fail_fraction: Fraction = Field(
        0.5, description="the campaign stops when a larger share of a cycle's labels has failed"
    )
    remedies: tuple[Remedy, ...] = Field(
        (),
        description="tried before our own, e.g. {when: took longer, say: more time, set: {time_limit: 7200}}",
    )

    @model_validator(mode="after")
    def _remedies_fit(self) -> Self:
        findings = [
            Finding(("remedies", row, "set", *found.key), found.message, found.at_key)
            for row, remedy in enumerate(self.remedies)
            for found in _misfits(self, remedy)
        ]
        if findings:
            raise Misfit(findings)
        return self

    def with_remedy(self, remedy: Remedy) -> Self:
        """The section with the keys that a remedy sets; mappings are merged, other values replaced."""
        bare = self.model_dump() | {"remedies": ()}
        return type(self).model_validate(_merged(bare, remedy.set)).model_copy(update={"remedies": self.remedies})


class GpawReference(ReferenceSection):
    """GPAW, plane waves, in its own process."""

    # the kind tells the references apart, so editors must ask for it although it has a default here
    model_config = ConfigDict(json_schema_extra={"required": ["kind"]})

    kind: Literal["gpaw"] = "gpaw"
    cutoff: Positive = Field(400, description="eV, plane-wave cutoff")
    kspacing: Positive = Field(0.3, description="1/Å (2 pi included), largest distance between k-points")
    xc: str = Field("PBE", description="exchange and correlation")
    smearing: Positive = Field(0.1, description="eV, Fermi-Dirac width")
    parameters: dict[str, Any] = Field(default_factory=dict, description="further keywords of gpaw.GPAW")


class EspressoReference(ReferenceSection):
    """Quantum ESPRESSO's pw.x."""

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

    @field_validator("namelists")
    @classmethod
    def _lower_case(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return in_lower_case(value)

    @model_validator(mode="after")
    def _pw_knows_the_keys(self) -> Self:
        findings = [
            Finding(("namelists", *found.key), found.message, found.at_key) for found in wrong_keys(self.namelists)
        ]
        if findings:
            raise Misfit(findings)
        return self


class AseReference(ReferenceSection):
    """Any ASE calculator."""

    kind: Literal["ase"]
    calculator: str = Field(
        description="import path of a calculator class, or of a function that returns a calculator",
        examples=["ase.calculators.emt.EMT"],
    )
    parameters: dict[str, Any] = Field(default_factory=dict, description="its keywords")


AnyReference = Annotated[GpawReference | EspressoReference | AseReference, Field(discriminator="kind")]


def _merged(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(before)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and "name" not in value:
            merged[key] = _merged(old, value)
        else:  # a dictionary with a name is another method, with keys of its own
            merged[key] = value
    return merged


def _misfits(section: ReferenceSection, remedy: Remedy) -> Iterator[Finding]:
    """What the section would not take of what a remedy sets."""
    from csp_al.campaign.messages import findings  # which needs the models

    for key in remedy.set:
        if key in type(section).model_fields and key not in CURABLE:
            message = f"a remedy cannot change {key}: its labels would not be those of the others; it may set "
            yield Finding((key,), message + ", ".join(CURABLE), at_key=True)
    try:
        section.with_remedy(remedy)
    except ValidationError as error:
        yield from findings(error, type(section))
