"""SchNet, with continuous filters of distances (K. T. Schütt et al., J. Chem. Phys. 148, 241722 (2018))."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from csp_al.potential.kind import REPRESENTATION, NetworkPotential, network_kind


class SchnetPotential(NetworkPotential):
    """The ensemble and how it is trained."""

    kind: Literal["schnet"] = Field("schnet", description=REPRESENTATION)
    network: ClassVar[str] = "csp_al.potential.networks.schnet:NETWORK"


KIND = network_kind(SchnetPotential)
