"""schnetpack's PaiNN, as it is."""

from __future__ import annotations

import schnetpack as spk

from csp_al.potential.networks.member import Network, schnetpack_keywords

NETWORK = Network(
    representation=lambda section: spk.representation.PaiNN(**schnetpack_keywords(section)),
    bytes_per_edge=lambda _: 320,
)
