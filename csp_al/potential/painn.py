"""PaiNN, equivariant with vectors (K. T. Schütt et al., ICML 2021, arXiv:2102.03150)."""

from __future__ import annotations

from typing import ClassVar, Literal

from csp_al.potential.kind import NetworkPotential, network_kind


class PainnPotential(NetworkPotential):
    """The ensemble and how it is trained."""

    kind: Literal["painn"] = "painn"
    network: ClassVar[str] = "csp_al.potential.networks.painn:NETWORK"


KIND = network_kind(PainnPotential)
