"""PaiNN, equivariant with vectors (K. T. Schütt et al., ICML 2021, arXiv:2102.03150)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from csp_al.potential.kind import REPRESENTATION, NetworkPotential, network_kind


class PainnPotential(NetworkPotential):
    """The ensemble and how it is trained."""

    kind: Literal["painn"] = Field("painn", description=REPRESENTATION)
    network: ClassVar[str] = "csp_al.potential.networks.painn:NETWORK"


KIND = network_kind(PainnPotential)
