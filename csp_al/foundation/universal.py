"""A foundation as what relaxations go down on, and what is known of it before anything is spent."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from csp_al.campaign.errors import Finding
from csp_al.campaign.foundation import Foundation
from csp_al.campaign.machine import Machine
from csp_al.foundation.client import About, Client, FoundationError
from csp_al.interfaces import Gives
from csp_al.structures import Prediction, Structures

PROGRAM: Final = "foundation"
"""Of the machine file's ``programs``: the Python in whose environment the model is."""


@dataclass(frozen=True)
class Universal:
    """A universal potential; keeps `csp_al.interfaces.Predictor`. It has no spread, and no features."""

    section: Foundation
    client: Client

    @property
    def gives(self) -> Gives:
        """Energy, and its derivatives."""
        return Gives(spread=False)

    def predict(self, structures: Structures) -> Prediction:
        """Energy, forces and stress, NaN for what the model cannot take. Raises `FoundationError`."""
        energy, forces, stress = self.client.predict(structures)
        return Prediction(
            energy=energy,
            energy_sigma=np.full(len(energy), np.nan),
            forces=forces,
            forces_sigma=np.full(len(forces), np.nan),
            stress=stress,
            stress_sigma=np.full(len(energy), np.nan),
            features=np.zeros((len(energy), 0)),
        )

    def fresh(self) -> Universal:
        """Itself, with a calculator that was made anew where it might remember."""
        self.client.renew()
        return self

    @property
    def reason(self) -> str:
        """Why it could not take crystals, most frequently so far; empty where it took all."""
        return next((reason for reason, _ in self.client.reasons.most_common(1)), "")

    def close(self) -> None:
        """End its process."""
        self.client.close()

    @cached_property
    def about(self) -> About:
        """What it says of itself. Raises `FoundationError` where it cannot run here."""
        return self.client.about()

    def check(self, species: Sequence[str]) -> list[Finding]:
        """What is wrong with the section here, and with these elements; empty if nothing."""
        try:
            about = self.about
        except FoundationError as error:
            return [Finding(("foundation", "model"), str(error))]
        return [*self._unknown(about, species), *self._changed(about)]

    def _unknown(self, about: About, species: Sequence[str]) -> Iterator[Finding]:
        unknown = [] if about.elements is None else [symbol for symbol in species if symbol not in about.elements]
        if unknown:
            message = f"{self.section.model} has never seen {', '.join(unknown)}; choose another, or leave it out"
            yield Finding(("foundation", "model"), message)

    def _changed(self, about: About) -> Iterator[Finding]:
        for name, expected in self.section.weights.items():
            found = about.weights.get(name)
            if found != expected:
                what = "there is no such file" if found is None else f"they are {found[:12]}... here"
                message = f"the weights {name} are not those that this tells of ({expected[:12]}...): {what}"
                yield Finding(("foundation", "weights"), f"{message}; bring them back, or begin under a new name")

    def pinned(self) -> Foundation:
        """The section with the checksums of the weights. Raises `FoundationError`."""
        return self.section.model_copy(update={"weights": self.about.weights})


def build_foundation(
    section: Foundation, machine: Machine, base: Path, device: str = "cpu", threads: int = 1
) -> Universal:
    """The foundation that a section describes; nothing is started before it is asked.

    ``base`` is the folder of the campaign file, where files of weights are, and modules unless the machine says where.
    """
    command = machine.alone(PROGRAM) if PROGRAM in machine.programs else [sys.executable]
    folders = [Path(machine.modules or base).expanduser(), Path.cwd()]
    client = Client(
        section.model, section.parameters,
        command=command, folders=folders, base=base, device=device, threads=threads,
    )  # fmt: skip
    return Universal(section, client)
