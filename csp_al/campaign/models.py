"""What a campaign file may say: sections, defaults, units.

Every field carries its unit and meaning in its description, which `csp-al init` prints as comments and
`csp-al schema` hands to editors.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from ase.formula import Formula
from pydantic import (
    Field,
    GetJsonSchemaHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core.core_schema import CoreSchema

from csp_al.campaign.direct import Direct
from csp_al.campaign.errors import Finding, Misfit, shown
from csp_al.campaign.foundation import Foundation
from csp_al.campaign.potentials import AnyPotential, default_potential
from csp_al.campaign.references import AnyReference
from csp_al.campaign.section import Count, Fraction, Number, Positive, Range, Section, Whole
from csp_al.campaign.sources import AnySource
from csp_al.kinds import POTENTIALS, REFERENCES, SOURCES, STRATEGIES, names
from csp_al.spelling import PLAIN_FORMULA, did_you_mean, is_element, meant_formula, nearest_element

Cell = Literal["free", "fixed"]
SLACK = 1e-9
"""By which shares may add up to more than 1: they are not exact."""


class Grow(Section):
    """Offspring of the leading crystals, relaxed by the ensemble in each cycle; the best join the pool."""

    offspring: Count = Field(100, description="number of offspring of a generation")
    generations: Count = Field(4, description="number of generations in each cycle")
    parents: Count = Field(40, description="number of lowest crystals that breed; no more can join in a cycle")


class Pool(Section):
    """The candidates."""

    formula: str = Field(description="atoms per cell, e.g. Si8 or Al4O6")
    size: Annotated[int, Field(strict=True, ge=0)] = Field(
        1000, description="number of candidates to generate; 0: those of seeds alone"
    )
    min_distance: dict[str, Positive] = Field(
        default_factory=dict,
        description="Å, for each pair of species, e.g. {Si-Si: 1.6}; pairs not given: 0.7 x the sum of covalent radii, "
        "of van der Waals radii for noble gases",
    )
    volume_per_atom: Range | None = Field(None, description="Å^3, [minimum, maximum]; null: from known crystals")
    lengths: Range | None = Field(None, description="Å, [minimum, maximum] length of a cell vector; null: from volume")
    angles: Range = Field((45, 135), description="degrees, [minimum, maximum] angle between cell vectors")
    symmetric_fraction: Fraction = Field(
        0.5, description="fraction of candidates with a random space group (PyXtal); the others are P1"
    )
    sources: tuple[AnySource, ...] = Field(
        (), description="further sources of candidates, e.g. {kind: NAME, share: 0.2}, each with keys of its own"
    )
    seeds: tuple[str, ...] = Field((), description="structure files; all their structures are added to the pool")
    grow: Grow | None = Field(
        None,
        description="offspring of what leads join the pool in each cycle, e.g. {offspring: 100, generations: 4, "
        "parents: 40}; {}: with these values; null: the pool stays as it is",
    )
    max_attempts: Count = Field(1000, description="attempts to generate one candidate before giving up")

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

    @field_validator("sources")
    @classmethod
    def _shares_are_parts(cls, value: tuple[AnySource, ...]) -> tuple[AnySource, ...]:
        total = sum(source.share for source in value)
        if total > 1 + SLACK:
            raise Misfit([Finding((len(value) - 1, "share"), f"the shares add up to {total:g}, above 1; lower them")])
        return value

    @model_validator(mode="after")
    def _pairs_are_of_the_formula(self) -> Pool:
        allowed = species_pairs(self.formula)
        findings, seen = [], set()
        for pair in self.min_distance:
            ends = frozenset(pair.split("-"))
            if pair not in allowed and "-".join(reversed(pair.split("-"))) not in allowed:
                message = f"no pair of species of {self.formula}; allowed: {', '.join(allowed)}"
                findings.append(Finding(("min_distance", pair), message, at_key=True))
            elif ends in seen:
                message = "the pair is there already, the other way round; remove one of them"
                findings.append(Finding(("min_distance", pair), message, at_key=True))
            seen.add(ends)
        if findings:
            raise Misfit(findings)
        return self


class Relax(Section):
    """Relaxation of the pool by the ensemble mean."""

    cell: Cell = Field(
        "free", description="free: atoms and cell move; fixed: atoms alone, in the final relaxations, too"
    )
    fmax: Positive = Field(0.05, description="eV/Å, converged when all forces, and the virial per atom, are below")
    max_steps: Count = Field(300, description="maximum number of steps of one relaxation")
    uncertainty: Positive = Field(
        3.0,
        description="stop when the largest uncertainty of a force exceeds this multiple of the largest force",
    )
    uncertainty_floor: Positive = Field(0.25, description="eV/Å, smaller uncertainties never stop a relaxation")
    energy_patience: Count = Field(20, description="stop after this many steps without a lower energy")
    batch_atoms: Count = Field(20_000, description="number of atoms in one batch of relaxations")


class Select(Section):
    """Which candidates are labelled next."""

    per_cycle: Count = Field(
        10,
        description="number of labels in each cycle, one in five of them for a random candidate; small "
        "values need fewer labels in all, large ones less training",
    )
    in_flight: Whole = Field(
        0,
        description="number of labels that are still out when a training begins, so that no slot of a cluster waits "
        "for it: half as many again as there are slots; 0: each cycle waits for all its labels",
    )
    strategy: str = Field(
        "paper",
        description="what is labelled first: paper, the lowest score; lowest, the lowest energy; uncertainty, the "
        "largest spread of a force; random; or the import path of a function of yours",
    )
    force_weight: Annotated[Number, Field(ge=0)] = Field(
        0.1, description="Å, w_F in the score of the paper, E/atom - w_F max|F|"
    )
    clusters: Count | None = Field(None, description="number of k-means clusters; null: 2 x per_cycle")
    noise: Annotated[Number, Field(ge=0)] = Field(0.1, description="Å, maximum random displacement before labelling")
    noise_decay: Fraction = Field(0.6, description="the noise is multiplied by this in each cycle")

    @field_validator("strategy")
    @classmethod
    def _is_strategy(cls, value: str) -> str:
        if "." not in value and value not in (known := names(STRATEGIES)):
            hint = did_you_mean(value, known)
            msg = f"unknown word {shown(value)}{hint or '; allowed: ' + ', '.join(known) + ', or an import path'}"
            raise ValueError(msg)
        return value

    @property
    def at_first(self) -> int:
        """Labels of the first draw."""
        return self.per_cycle + self.in_flight

    def groups(self, labels: int) -> int:
        """Clusters to make for so many labels. With many times more of them, all labels are of what leads."""
        return self.clusters or 2 * labels


class Stop(Section):
    """When the search is over."""

    top_k: Count = Field(3, description="number of lowest crystals (the leaders) that must stay the same")
    tolerance: Positive = Field(
        0.01, description="eV/atom. Smaller changes, after subtracting the shift common to all leaders, are ignored"
    )
    patience: Count = Field(2, description="number of consecutive cycles without a change after which the search stops")
    challenge: Annotated[bool, Field(strict=True)] = Field(
        True,
        description="once the leaders were unchanged, label candidates that are least like what was labelled, whatever "
        "their scores; the search stops only if the leaders stay the same after that",
    )
    max_error: Positive | None = Field(
        0.03,
        description="eV/atom. The search goes on while the newest labels were off by more, in the median, after "
        "subtracting the shift common to all, or one was lower than predicted by twice that, shift and all; null: "
        "however much",
    )
    max_unseen: Fraction = Field(
        0.5,
        description="largest chance that one more candidate finds a new minimum at which a search is called settled",
    )
    max_cycles: Count = Field(80, description="maximum number of cycles")


class Finish(Section):
    """Relaxation of the winners by the reference method."""

    crystals: Count | None = Field(
        None, description="number of lowest crystals to relax, at least stop.top_k; null: stop.top_k"
    )
    fmax: Positive = Field(0.05, description="eV/Å, as relax.fmax")
    max_steps: Count = Field(200, description="maximum number of steps of one relaxation")


class Budget(Section):
    """What the campaign may cost."""

    labels: Annotated[int, Field(strict=True, ge=0)] = Field(
        1500,
        description="maximum number of labels, imported ones not counted; 0: none, a foundation ranks alone",
    )
    hours: Positive | None = Field(None, description="h, maximum wall time of the cycles; null: no limit")


class LabelFile(Section):
    """A source of labels from elsewhere: a path, or a section of it and the keys that its values stand under."""

    path: str = Field(description="of a run directory, a file or a folder, relative to the campaign file")
    energy: str | None = Field(None, description="key of the energy, eV, e.g. REF_energy")
    forces: str | None = Field(None, description="key of the forces, eV/Å")
    stress: str | None = Field(None, description="key of the stress, eV/Å^3, positive under tension")
    virial: str | None = Field(
        None, description="key of the virial, eV, instead of the stress: minus stress times volume"
    )

    @model_validator(mode="before")
    @classmethod
    def _is_path_or_section(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"path": value}
        if not isinstance(value, dict):
            msg = (
                f"a path, or a section such as {{path: x.extxyz, energy: REF_energy}}, is expected, not {shown(value)}"
            )
            raise ValueError(msg)  # noqa: TRY004 - pydantic's validators raise ValueError
        return value

    @model_validator(mode="after")
    def _is_stress_or_virial(self) -> LabelFile:
        if self.stress and self.virial:
            raise Misfit([Finding(("virial",), "stress and virial say the same; name one of them", at_key=True)])
        return self

    @model_serializer(mode="wrap")
    def _as_path_if_no_more(self, as_section: SerializerFunctionWrapHandler) -> Any:
        return as_section(self) if self.keys else self.path

    @property
    def keys(self) -> dict[str, str]:
        """The keys that are named, by what they hold."""
        named = {"energy": self.energy, "forces": self.forces, "stress": self.stress, "virial": self.virial}
        return {quantity: key for quantity, key in named.items() if key}


class _OrPath:
    """Tells editors that a path alone will do."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler(core)]}


class Campaign(Section):
    """A campaign file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] = Field(
        description="name of the run directory: letters, digits, . _ -"
    )
    seed: Annotated[int, Field(strict=True, ge=0)] = Field(1, description="seed of all random numbers")
    pool: Pool
    search_pool: Pool | None = Field(
        None,
        description="larger cells of the same composition, with the keys of pool. If given, only these are searched; "
        "the first labels are drawn from the smaller cells of pool, which cost less to label",
    )
    labels: tuple[Annotated[LabelFile, _OrPath()], ...] = Field(
        (),
        description="imported labels, computed with the same reference settings, that replace the random draw of the "
        "first cycle: run directories, files that ASE reads (extxyz, databases, outputs), folders of pw.x and VASP "
        "outputs; {path: x.extxyz, energy: REF_energy, ...} names the keys of a file",
    )
    reference: AnyReference
    foundation: Foundation | None = Field(
        None,
        description="a universal potential that relaxes the pool first, chooses the first labels, and is what the "
        "ensemble adds to, e.g. {model: chgnet}; null: none",
    )
    potential: AnyPotential = Field(default_factory=default_potential)
    relax: Relax = Field(default_factory=Relax)
    direct: Direct | None = Field(
        None,
        description="a network that learns from the campaign's own relaxations, and predicts where those of offspring "
        "and of candidates relaxed again may begin, e.g. {kind: deeprelax}; null: none",
    )
    select: Select = Field(default_factory=Select)
    stop: Stop = Field(default_factory=Stop)
    finish: Finish = Field(default_factory=Finish)
    budget: Budget = Field(default_factory=Budget)

    _file: Path | None = PrivateAttr(None)

    def of_file(self, path: Path) -> Self:
        """The same campaign, which knows the file that it is of."""
        campaign = self.model_copy()
        campaign._file = path  # noqa: SLF001 (of a campaign)
        return campaign

    @property
    def source(self) -> Path | None:
        """The file that it is of, where that was told by `of_file`."""
        return self._file

    @property
    def pools(self) -> list[Pool]:
        """Of all candidates, those that are searched last."""
        return [self.pool] if self.search_pool is None else [self.pool, self.search_pool]

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """Group and name of each kind that the campaign asks for."""
        sources = [(SOURCES, source.kind) for pool in self.pools for source in pool.sources]
        named = [(POTENTIALS, self.potential.kind), *sources, (STRATEGIES, self.select.strategy)]
        return [(REFERENCES, self.reference.kind), *named]

    @property
    def unlabelled(self) -> bool:
        """Whether a foundation alone ranks the candidates."""
        return self.budget.labels == 0

    @property
    def winners(self) -> int:
        """Crystals that the reference relaxes in the end."""
        return max(self.stop.top_k, self.finish.crystals or 0)

    @property
    def final_relaxations(self) -> int:
        """The same at most, if none fails: with ``stop.top_k`` more that may be the lowest, and a label."""
        return self.winners + self.stop.top_k + 1

    @property
    def candidates(self) -> str:
        """How many of what, in words."""
        return " and ".join(f"{pool.size or 'your own'} candidates of {pool.formula}" for pool in self.pools)


def species_counts(formula: str) -> dict[str, int]:
    """Atoms of each species in a formula such as Al4O6 or Ca(OH)2, in its order. Raises ValueError for what is none."""
    try:
        if not PLAIN_FORMULA.fullmatch(formula):  # the library drops a charge without a word
            raise ValueError(formula)  # noqa: TRY301 - both ways of being none
        counts: dict[str, int] = Formula(formula).count()
    except Exception as error:
        msg = f"{shown(formula)!r} is no chemical formula{meant_formula(formula) or '; write e.g. Si8 or Al4O6'}"
        raise ValueError(msg) from error
    unknown = [f"{symbol}{nearest_element(symbol)}" for symbol in counts if not is_element(symbol)]
    if unknown:
        msg = f"{shown(formula)!r}: no element is called {'; nor '.join(unknown)}"
        raise ValueError(msg)
    if not counts or min(counts.values()) < 1:
        msg = f"{shown(formula)!r} has a species without atoms; write e.g. Si8 or Al4O6"
        raise ValueError(msg)
    return counts


def species_pairs(formula: str) -> list[str]:
    """The pairs of species of a formula, each once, in its order: Al-Al, Al-O, O-O."""
    return ["-".join(pair) for pair in combinations_with_replacement(species_counts(formula), 2)]
