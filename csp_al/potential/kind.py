"""Kinds of potentials whose network is trained by the shared ensemble.

    KIND = network_kind(SchnetPotential)

A kind is one file beside this one, with its section, and one in `networks`. Nothing here loads torch: every verb reads
campaign files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import Field

from csp_al.campaign.potentials import PotentialSection
from csp_al.campaign.section import Count, Positive
from csp_al.interfaces import Ensemble, Gives, PotentialKind
from csp_al.kinds import POTENTIALS, find
from csp_al.potential.polished import FOLDER, Polished

if TYPE_CHECKING:
    import torch

Polish = Annotated[
    Literal["schnet", "painn", "so3net"] | None,
    Field(
        description="kind of a conservative potential, with its defaults, that learns the same labels, brings to rest "
        "what these forces led there, and ranks; null: none"
    ),
]
"""Of kinds whose forces are no gradient."""

REPRESENTATION: Final = "representation, from schnetpack"

STEPS_PER_LABEL: Final = (
    "number of training steps for each label, on top of 100; more where potentials learn too little from their labels"
)

WEIGHTS: Final = 10
"""Numbers per member, interaction and squared width of the features, in all our networks alike, within 3x."""


HEAVIEST: Final = 99
"""Einsteinium: networks have an embedding for each atomic number below 100."""


class NetworkPotential(PotentialSection):
    """The ensemble and how it is trained."""

    network: ClassVar[str]
    """Where its `csp_al.potential.networks.member.Network` is: module:name."""
    equivariant: ClassVar[bool] = True
    """Whether the network turns with the crystal; if not, training turns labels at random."""

    members: Annotated[int, Field(strict=True, ge=2)] = Field(5, description="number of potentials in the ensemble")
    features: Count = Field(64, description="number of features of each atom")
    interactions: Count = Field(3, description="number of interaction blocks")
    cutoff: Positive = Field(6.0, description="Å")
    radial: Count = Field(20, description="number of radial basis functions")
    learning_rate: Positive = Field(5e-3, description="maximum learning rate of AdamW")
    batch_size: Count = Field(16, description="structures in one training step")
    steps: Count = Field(3000, description="maximum number of training steps in each cycle, rounded up to whole epochs")
    steps_per_label: Positive = Field(10, description=STEPS_PER_LABEL)
    patience: Count = Field(1000, description="training stops after this many steps without a lower validation loss")
    energy_weight: Positive = Field(1.0, description="weight in the loss of the squared energy error, (eV/atom)^2")
    force_weight: Positive = Field(1.0, description="weight of the mean squared force error, (eV/Å)^2")
    stress_weight: Positive = Field(10.0, description="weight of the mean squared stress error, (eV/Å^3)^2")
    warm_start: bool = Field(
        False,
        strict=True,
        description="start training from the weights of the previous cycle (a fresh start generalises better)",
    )

    @property
    def conservative(self) -> bool:
        """Whether forces and stress are derivatives of the energy; if not, the network has heads for them."""
        return True


def network_kind(section: type[NetworkPotential]) -> PotentialKind:
    """The kind with this section: all that does not depend on the network."""
    return PotentialKind(section, gives=_gives, new=_new, load=_load, weights_bytes=_weights_bytes)


def polish_of(section: NetworkPotential) -> NetworkPotential | None:
    """The section of the ensemble that polishes: the kind's defaults, with as many members and the same cutoff."""
    if (name := getattr(section, "polish", None)) is None:
        return None
    polish: NetworkPotential = find(POTENTIALS, name).section(members=section.members, cutoff=section.cutoff)
    return polish


def _gives(section: NetworkPotential) -> Gives:
    if polish := polish_of(section):
        return _gives(polish)
    return Gives(
        conservative=section.conservative,
        equivariant=section.equivariant,
        features=section.members * section.features,
        heaviest=HEAVIEST,
    )


def _new(section: NetworkPotential, seed: list[int], device: torch.device) -> Ensemble:
    from csp_al.potential.ensemble import new_ensemble

    ensemble = new_ensemble(section, seed, device)
    polish = polish_of(section)
    return ensemble if polish is None else Polished(ensemble, new_ensemble(polish, seed, device))


def _load(folder: Path, section: NetworkPotential, device: torch.device) -> Ensemble:
    from csp_al.potential.ensemble import load_ensemble

    ensemble = load_ensemble(folder, section, device)
    polish = polish_of(section)
    return ensemble if polish is None else Polished(ensemble, load_ensemble(folder / FOLDER, polish, device))


def _weights_bytes(section: NetworkPotential) -> int:
    own = 4 * WEIGHTS * section.members * section.interactions * section.features**2
    polish = polish_of(section)
    return own if polish is None else own + _weights_bytes(polish)
