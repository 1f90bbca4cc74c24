"""ForceNet, which learns from turned labels what a rotation does (W. Hu et al., arXiv:2103.01436)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from csp_al.campaign.section import Count
from csp_al.potential.kind import NetworkPotential, Polish, network_kind


class ForcenetPotential(NetworkPotential):
    """The ensemble and how it is trained."""

    kind: Literal["forcenet"] = Field(
        "forcenet", description="representation: directions as plain numbers; forces and stress by heads of their own"
    )
    radial: Count = Field(50, description="number of sines of each length between two atoms")
    polish: Polish = None
    network: ClassVar[str] = "csp_al.potential.networks.forcenet:NETWORK"
    equivariant: ClassVar[bool] = False

    @property
    def conservative(self) -> bool:
        """Its forces are of a head of their own."""
        return False


KIND = network_kind(ForcenetPotential)
