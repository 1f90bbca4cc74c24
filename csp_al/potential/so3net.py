"""SO3net of schnetpack, equivariant with spherical harmonics up to l = 2."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from csp_al.campaign.section import Positive
from csp_al.potential.kind import REPRESENTATION, STEPS_PER_LABEL, NetworkPotential, network_kind


class So3netPotential(NetworkPotential):
    """The ensemble and how it is trained."""

    kind: Literal["so3net"] = Field("so3net", description=REPRESENTATION)
    # with 25 labels its errors fall from 189 to 40 meV/atom between 300 and 600 steps
    steps_per_label: Positive = Field(30, description=STEPS_PER_LABEL)
    network: ClassVar[str] = "csp_al.potential.networks.so3net:NETWORK"


KIND = network_kind(So3netPotential)
