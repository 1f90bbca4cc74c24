"""LEIGNN, equivariant with vectors and a node that all atoms share (Z. Yang et al., arXiv:2311.02869)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from csp_al.campaign.errors import Finding, Misfit
from csp_al.campaign.section import Count
from csp_al.potential.kind import NetworkPotential, Polish, network_kind


class LeignnPotential(NetworkPotential):
    """The ensemble and how it is trained."""

    kind: Literal["leignn"] = Field(
        "leignn", description="representation: vectors, tensors, a node that all atoms share"
    )
    # on silicon better after a minute than SchNet, and a step takes twice as long as SchNet's of 64 and 3
    features: Count = Field(32, description="number of features of each atom")
    interactions: Count = Field(2, description="number of interaction blocks")
    rank: Literal[1, 2] = Field(
        2, description="2: atoms see angles by tensors of second rank too; 1: by vectors alone, as published"
    )
    mode: Literal["conservative", "direct"] = Field(
        "conservative",
        description="conservative: forces and stress are derivatives of the energy; direct: the network gives them "
        "itself, in half the time, and relaxations follow no energy",
    )
    global_node: bool = Field(
        True, strict=True, description="a node that sees the mean over all atoms; false where cells differ in size"
    )
    polish: Polish = None
    network: ClassVar[str] = "csp_al.potential.networks.leignn:NETWORK"

    @model_validator(mode="after")
    def _polishes_what_is_rough(self) -> LeignnPotential:
        if self.conservative and self.polish is not None:
            words = "in this mode forces are the energy's own already; leave it out, or set mode: direct"
            raise Misfit([Finding(("polish",), words)])
        return self

    @property
    def conservative(self) -> bool:
        """As chosen."""
        return self.mode == "conservative"


KIND = network_kind(LeignnPotential)
