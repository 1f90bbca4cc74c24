"""The seams of the loop: what each room promises to the loop, and nothing else.

A room is replaced by anything that keeps its Protocol. Shapes and units are those of `csp_al.structures`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from csp_al.reasons import (
    CONVERGED,
    NOT_FINITE,
    OUT_OF_STEPS,
    STALLED,
    STOP_REASONS,
    TOO_CLOSE,
    UNCERTAIN,
    UNTRUSTED,
    VOLUME,
    Cure,
    Failure,
    Reason,
    ReferenceFailedError,
    UnplaceableError,
    trusted,
)
from csp_al.structures import Labels, Prediction, Status, Structures

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from csp_al.campaign.constraints import Constraints
    from csp_al.campaign.machine import Machine
    from csp_al.campaign.potentials import PotentialSection
    from csp_al.campaign.references import AnyReference, ReferenceSection, Remedy
    from csp_al.campaign.sources import SourceSection


class Reference(Protocol):
    """The method whose labels are the truth of a campaign: a source of ASE calculators."""

    @property
    def name(self) -> str:
        """What it is called in tables and messages."""
        ...

    def calculator(self, atoms: Atoms, directory: Path) -> BaseCalculator:
        """A fresh calculator for these atoms that writes only below ``directory``."""
        ...

    def kpoints(self, atoms: Atoms) -> list[int] | None:
        """Divisions of the mesh that a calculator made for these atoms keeps; None where there is none or unknown."""
        ...

    def check(self) -> list[tuple[str, str]]:
        """What is missing before this reference can run here, with its remedy; empty if nothing.

        Each is a key of the reference section, such as "calculator", and what is wrong there.
        """
        ...

    def warnings(self) -> list[tuple[str, str]]:
        """What may be meant, but should be known: keys and words as of `check`."""
        ...

    def pinned(self) -> AnyReference:
        """Its section with everything written out that a result depends on, such as checksums of files."""
        ...

    def versions(self) -> dict[str, str]:
        """Programs that it runs, and their versions."""
        ...


@dataclass(frozen=True)
class ReferenceKind:
    """A kind of reference: all that others need to know of it. `csp_al.kinds` finds it by its name.

    The functions take the section of a campaign file, which is of ``section``.
    """

    section: type[ReferenceSection]
    build: Callable[[Any, Sequence[str], Machine, Path], Reference]
    """From section, species, machine, and the folder that file names are relative to; imports and checks nothing."""
    prepare: Callable[[Any], None] = lambda _: None
    """Import what a calculation will need, so that processes forked from this one start at once; raises nothing."""
    foreign_code: Callable[[Any], str] = lambda section: f"reference.kind: {section.kind}"
    """What of a section would run its author's code, or write files of the author's choice; empty if nothing does.

    Of kinds that are not ours nobody asks: they are code of their authors as a whole.
    """
    ladder: tuple[Remedy | Cure, ...] = ()
    """What is tried again when a calculation fails."""
    places: tuple[str, ...] = ()
    """Keys of the section that say where something is here, None by default. No result depends on them.

    The machine file has keys of the same names, which hold where the section's are None.
    """
    bytes_per_task: int = 20_000
    """Of a label's directory with all its output, seen for cells of 4 to 16 atoms."""
    core_seconds: Callable[[Any, int], tuple[tuple[float, float], str]] | None = None
    """Of one single point of so many atoms, least and most, and in words what that rests on; None: not known."""
    functional: Callable[[Any], str | None] = lambda _: None
    """Of the reference that ``build`` made: the density functional, such as PBE; None: not known, or none."""


@dataclass(frozen=True)
class SourceKind:
    """A kind of source of candidates. `csp_al.kinds` finds it by its name."""

    section: type[SourceSection]
    make: Callable[[Any, Constraints, np.random.Generator], Atoms]
    """A periodic candidate that keeps the constraints, from its own section and random stream: the same stream gives
    the same candidate. ``info["asked_group"]`` may tell the space group that was aimed at, ``info["note"]`` a word.

    Raises `UnplaceableError` after a bounded number of tries, with the constraint that could not be met.
    """


@dataclass(frozen=True)
class Gives:
    """What a potential predicts. What it does not give is NaN in its predictions, and its features are (n, 0)."""

    energy: bool = True
    conservative: bool = True
    """Whether forces and stress are derivatives of the energy; relaxations do not compare energies where not."""
    equivariant: bool = True
    """Whether a turned crystal has the same energy, and its forces and stress turned; else so roughly, as learned."""
    stress: bool = True
    spread: bool = True
    """Whether sigmas say how far the potential may be wrong."""
    features: int = 0
    """Numbers that tell one crystal from another, see `Prediction`."""
    heaviest: int = 118
    """Atomic number of the heaviest element that it takes."""


class Predictor(Protocol):
    """What a relaxation goes down on.

    One that has a ``guide``, another one, lets that lead relaxations first, see `csp_al.potential.polished`.
    """

    @property
    def gives(self) -> Gives:
        """What it predicts."""
        ...

    def predict(self, structures: Structures) -> Prediction:
        """Mean and spread over the members; an empty batch has an empty prediction.

        Structures of one id are taken for one crystal that moves, so that neighbours may be remembered by it.
        """
        ...

    def fresh(self) -> Predictor:
        """The same, with nothing remembered of earlier calls: it predicts what a loaded copy would, bit for bit."""
        ...


class Ensemble(Predictor, Protocol):
    """Potentials that are asked together. `csp_al.testing.check_potential` says whether one keeps all of this."""

    def fresh(self) -> Ensemble:
        """As that of any `Predictor`."""
        ...

    def train(self, labels: Labels, seed: list[int], report: Callable[[int, int], None] = ...) -> Trained:
        """Train on usable labels, in the order in which they were obtained; this ensemble stays as it is.

        The same labels and seed give the same result. ``report(done, all)`` is called now and then.
        Raises ValueError for labels that are too few.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write into a folder what `PotentialKind.load` reads: numbers and text, nothing that is run when read."""
        ...


@dataclass(frozen=True)
class Trained:
    """A trained ensemble and how it went.

    The learning curve has a row for each epoch and member: columns epoch (from 1), member (from 0), training and
    validation (losses, low is good). Of the labels so many were left out.
    """

    ensemble: Ensemble
    curve: pd.DataFrame
    left_out: int


@dataclass(frozen=True)
class PotentialKind:
    """A kind of potential, light to import. `csp_al.kinds` finds it by its name.

    The functions take the section of a campaign file, which is of ``section``.
    """

    section: type[PotentialSection]
    gives: Callable[[Any], Gives]
    new: Callable[[Any, list[int], torch.device], Ensemble]
    """An untrained ensemble, which the seed decides."""
    load: Callable[[Path, Any, torch.device], Ensemble]
    """What `Ensemble.save` wrote for this section. Raises `csp_al.files.DamagedError` for anything else."""
    weights_bytes: Callable[[Any], int]
    """What `Ensemble.save` writes, roughly."""


class State(StrEnum):
    """Where a campaign is; a driver that ends without a result logs FAILED, one that ends with it FINISHED."""

    NEW = "new"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True)
class Verdict:
    """Whether a campaign goes on, and why, in words."""

    stop: bool
    reason: str
    stable_cycles: int
    """Cycles in a row, this one included, that left the top k unchanged."""
    top: list[int]
    """Ids of the candidates that stand for the k lowest crystals, lowest first."""
    energies: list[float]
    """Their energies, eV/atom."""
    unseen: float
    """Good-Turing estimate of the chance that one more candidate would reach a minimum not seen yet."""
    settled: bool | None = None
    """Whether the search stops sure of its leaders; None where it goes on, and in runs of versions that did not ask."""
    waits: bool = False
    """Whether it would stop, but for labels that are still out."""


@dataclass(frozen=True)
class Task:
    """A calculation by the reference method, told apart by a hash of everything that its result depends on.

    Kind is "label" (a single point) or "relax" (atoms and cell, to rest). ``inputs`` is JSON: the structure, the
    reference section of the campaign file, and for "relax" fmax (eV/Å), max_steps and, where the cell stays as it is,
    cell: "fixed".
    """

    kind: str
    inputs: dict[str, Any] = field(hash=False)


Line = tuple[bool | None, str, str]
"""Whether it is there (None: not, but it is needed by some only), what it is, and what to do where it lacks."""


class Engine(Protocol):
    """Runs tasks somewhere, each once. Results are found in the task directories, never in the engine's memory.

    What keeps it can be seen with `csp_al.testing.check_engine`.
    """

    def submit(self, task: str) -> None:
        """Queue the task of this id; tasks start in this order. One that is queued, running or finished is left alone.

        Returns at once. Raises ValueError where there is no such task.
        """
        ...

    def tick(self) -> None:
        """Start what can be started, clean up what has ended; returns soon."""
        ...

    def lost(self) -> list[str]:
        """Tasks that were submitted, are not finished, are not queued, and that no living worker has."""
        ...

    def close(self) -> None:
        """End what runs and all that it started, within seconds, and start nothing more; finished results are kept."""
        ...

    def leave(self) -> None:
        """Let go of what runs, which goes on to its end, and start nothing more; returns at once."""
        ...


@dataclass(frozen=True)
class EngineKind:
    """A kind of engine. `csp_al.kinds` finds it by its name, which is the ``engine`` of a machine file.

    The functions take the machine that the file describes, which is of ``section``.
    """

    section: type[Machine]
    """`csp_al.campaign.machine.Machine`, or a subclass with the keys of this engine alone."""
    start: Callable[[Path, Any], Engine]
    """From the folder of the tasks and the machine; nothing runs before something is submitted."""
    check: Callable[[Any], int]
    """How many labels are computed side by side. Raises ValueError where the machine has not what its file asks for."""
    examine: Callable[[Any], Iterable[Line]] | None = None
    """What is found where the calculations will run, for which a tiny one may be started; None: it is here."""
    start_stages: Callable[[Path, Any], tuple[Engine, str] | None] | None = None
    """What does stages of the loop elsewhere, and on which device; None: the driver does them."""


__all__ = [
    "CONVERGED", "NOT_FINITE", "OUT_OF_STEPS", "STALLED", "STOP_REASONS", "TOO_CLOSE", "UNCERTAIN", "UNTRUSTED",
    "VOLUME", "Cure", "Engine", "EngineKind", "Ensemble", "Failure", "Gives", "Labels", "Line", "PotentialKind",
    "Predictor", "Reason", "Reference", "ReferenceFailedError", "ReferenceKind", "SourceKind", "State", "Status",
    "Task", "Trained", "UnplaceableError", "Verdict", "trusted",
]  # fmt: skip
