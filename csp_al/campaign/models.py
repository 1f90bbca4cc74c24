"""What a campaign file may say: sections, defaults, units.

Every field carries its unit and meaning in its description, which `csp-al init` prints as comments and
`csp-al schema` hands to editors.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from ase.data import atomic_numbers
from ase.formula import Formula
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator, model_validator

Range = tuple[PositiveFloat, PositiveFloat]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Frozen, and strict about keys: a misspelt key is an error, never a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Pool(Section):
    """The candidates."""

    formula: str = Field(description="atoms per cell, e.g. Si8 or Al4O6")
    size: PositiveInt = Field(1000, description="number of candidates")
    min_distance: dict[str, PositiveFloat] = Field(
        default_factory=dict,
        description="Å, for each pair of species, e.g. {Si-Si: 1.6}; a pair not named: 0.7 x sum of covalent radii",
    )
    volume_per_atom: Range | None = Field(None, description="Å^3, [least, most]; null: from covalent radii")
    lengths: Range | None = Field(None, description="Å, [least, most] length of a cell vector; null: from the volume")
    angles: Range = Field((45, 135), description="degrees, [least, most] angle between cell vectors")
    symmetric_fraction: Fraction = Field(
        0.5, description="share of candidates with a random space group (PyXtal), the rest P1"
    )
    seeds: tuple[str, ...] = Field((), description="structure files whose structures join the pool as candidates")
    max_attempts: PositiveInt = Field(1000, description="tries for one candidate before it is given up")

    @field_validator("formula")
    @classmethod
    def _is_formula(cls, value: str) -> str:
        species_counts(value)
        return value

    @field_validator("volume_per_atom", "lengths", "angles")
    @classmethod
    def _is_range(cls, value: Range | None) -> Range | None:
        if value is not None and value[0] > value[1]:
            msg = f"the least value, {value[0]:g}, is above the most, {value[1]:g}; swap them"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _pairs_are_of_the_formula(self) -> Pool:
        species = set(species_counts(self.formula))
        for pair in self.min_distance:
            ends = pair.split("-")
            if len(ends) != 2 or not set(ends) <= species:
                allowed = ", ".join(sorted(f"{a}-{b}" for a in species for b in species if a <= b))
                msg = f"min_distance: {pair!r} is no pair of species of {self.formula}; allowed: {allowed}"
                raise ValueError(msg)
        return self


class ReferenceSection(Section):
    """What every reference has."""

    time_limit: PositiveFloat = Field(3600, description="s, wall time of one label; a longer one has failed")
    max_force: PositiveFloat = Field(100, description="eV/Å, a label with a larger force trains nothing")
    max_fail_fraction: Fraction = Field(
        0.5, description="the campaign stops when a larger share of a cycle's labels has failed"
    )


class GpawReference(ReferenceSection):
    """GPAW, plane waves, in its own process."""

    kind: Literal["gpaw"] = "gpaw"
    cutoff: PositiveFloat = Field(400, description="eV, plane-wave cutoff")
    kspacing: PositiveFloat = Field(0.3, description="1/Å (2 pi included), largest distance between k-points")
    xc: str = Field("PBE", description="exchange and correlation")
    smearing: PositiveFloat = Field(0.1, description="eV, Fermi-Dirac width")
    parameters: dict[str, Any] = Field(default_factory=dict, description="further keywords of gpaw.GPAW")


class AseReference(ReferenceSection):
    """Any ASE calculator."""

    kind: Literal["ase"]
    calculator: str = Field(description="import path of a calculator class, or of a function that returns a calculator")
    parameters: dict[str, Any] = Field(default_factory=dict, description="its keywords")


AnyReference = Annotated[GpawReference | AseReference, Field(discriminator="kind")]


class Potential(Section):
    """The ensemble and how it is trained."""

    kind: Literal["schnet", "painn", "so3net"] = Field("schnet", description="representation, from schnetpack")
    members: Annotated[int, Field(ge=2)] = Field(5, description="potentials in the ensemble")
    features: PositiveInt = Field(64, description="width of the representation")
    interactions: PositiveInt = Field(3, description="interaction blocks")
    cutoff: PositiveFloat = Field(6.0, description="Å")
    radial: PositiveInt = Field(20, description="radial basis functions")
    learning_rate: PositiveFloat = Field(2e-3, description="of AdamW at the start")
    batch_size: PositiveInt = Field(16, description="structures in one training step")
    epochs: PositiveInt = Field(200, description="passes over the labels at most, in each cycle")
    patience: PositiveInt = Field(40, description="epochs without a better validation loss before training stops")
    energy_weight: PositiveFloat = Field(1.0, description="weight in the loss of the squared energy error, (eV/atom)^2")
    force_weight: PositiveFloat = Field(0.1, description="weight of the mean squared force error, (eV/Å)^2")
    stress_weight: PositiveFloat = Field(10.0, description="weight of the mean squared stress error, (eV/Å^3)^2")
    warm_start: bool = Field(True, description="train on from the weights of the cycle before")


class Relax(Section):
    """Relaxation of the pool by the ensemble mean."""

    fmax: PositiveFloat = Field(0.05, description="eV/Å, converged below; for the cell: virial per atom, as in ASE")
    max_steps: PositiveInt = Field(300, description="steps of one candidate at most")
    uncertainty: PositiveFloat = Field(0.5, description="stop when the largest sigma_F exceeds this share of max F")
    uncertainty_floor: PositiveFloat = Field(0.25, description="eV/Å, a sigma_F below this stops nothing")
    energy_patience: PositiveInt = Field(20, description="stop when the energy has not fallen for so many steps")
    batch_atoms: PositiveInt = Field(2000, description="atoms relaxed side by side")


class Select(Section):
    """Which candidates are labelled next."""

    per_cycle: PositiveInt = Field(50, description="labels asked for in each cycle")
    force_weight: Annotated[float, Field(ge=0)] = Field(0.5, description="Å, w_F in L = E/atom - w_F max|F|")
    clusters: PositiveInt = Field(200, description="k of k-means")
    noise: Annotated[float, Field(ge=0)] = Field(0.1, description="Å, amplitude of the shake before labelling")
    noise_decay: Fraction = Field(0.6, description="factor on the amplitude in each cycle")


class Stop(Section):
    """When the search is over."""

    top_k: PositiveInt = Field(10, description="clusters whose lowest structures must stay the same")
    tolerance: PositiveFloat = Field(0.01, description="eV/atom, an energy that moves less is the same")
    patience: PositiveInt = Field(2, description="cycles in a row without a change")
    max_cycles: PositiveInt = Field(15, description="cycles at most")


class Finish(Section):
    """Relaxation of the winners by the reference method."""

    fmax: PositiveFloat = Field(0.05, description="eV/Å")
    max_steps: PositiveInt = Field(200, description="steps of one winner at most")


class Budget(Section):
    """What the campaign may cost."""

    labels: PositiveInt = Field(1500, description="single points in the cycles; the final relaxations are told apart")
    hours: PositiveFloat | None = Field(None, description="h, wall time of the cycles; null: no limit")


class Campaign(Section):
    """A campaign file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] = Field(
        description="of the run directory: letters, digits, . _ -"
    )
    seed: Annotated[int, Field(ge=0)] = Field(1, description="everything random follows from it")
    pool: Pool
    reference: AnyReference
    potential: Potential = Field(default_factory=Potential)
    relax: Relax = Field(default_factory=Relax)
    select: Select = Field(default_factory=Select)
    stop: Stop = Field(default_factory=Stop)
    finish: Finish = Field(default_factory=Finish)
    budget: Budget = Field(default_factory=Budget)


def species_counts(formula: str) -> dict[str, int]:
    """Atoms of each species in a formula such as Al4O6, in its order. Raises ValueError for what is none."""
    try:
        counts: dict[str, int] = Formula(formula).count()
    except Exception as error:
        msg = f"{formula!r} is no chemical formula; write e.g. Si8 or Al4O6"
        raise ValueError(msg) from error
    unknown = [symbol for symbol in counts if symbol not in atomic_numbers or symbol == "X"]
    if unknown or not counts:
        msg = f"{formula!r}: no element is called {', '.join(unknown) or 'that'}"
        raise ValueError(msg)
    return counts
