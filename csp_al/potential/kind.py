"""Kinds of potentials whose network is trained by the shared ensemble.

    KIND = network_kind(SchnetPotential)

A kind is one file beside this one, with its section, and one in `networks`. Nothing here loads torch: every verb reads
campaign files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from csp_al.campaign.models import Potential
from csp_al.interfaces import Ensemble, Gives, PotentialKind

if TYPE_CHECKING:
    import torch

WEIGHTS: Final = 10
"""Numbers per member, interaction and squared width of the features, in SchNet, PaiNN and SO3net alike, within 3x."""


class NetworkPotential(Potential):
    """The ensemble and how it is trained."""

    network: ClassVar[str]
    """Where its `csp_al.potential.networks.member.Network` is: module:name."""


def network_kind(section: type[NetworkPotential]) -> PotentialKind:
    """The kind with this section: all that does not depend on the network."""
    return PotentialKind(section, gives=_gives, new=_new, load=_load, weights_bytes=_weights_bytes)


def _gives(section: NetworkPotential) -> Gives:
    return Gives(features=section.members * section.features)


def _new(section: NetworkPotential, seed: list[int], device: torch.device) -> Ensemble:
    from csp_al.potential.ensemble import new_ensemble

    return new_ensemble(section, seed, device)


def _load(folder: Path, section: NetworkPotential, device: torch.device) -> Ensemble:
    from csp_al.potential.ensemble import load_ensemble

    return load_ensemble(folder, section, device)


def _weights_bytes(section: NetworkPotential) -> int:
    return 4 * WEIGHTS * section.members * section.interactions * section.features**2
