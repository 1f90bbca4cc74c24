"""How much a campaign writes, roughly, before it is seen.

require_space(run, cycle_bytes(campaign))
"""

from __future__ import annotations

from typing import Final

from csp_al.campaign.models import Campaign, species_counts
from csp_al.campaign.potentials import potential_kind
from csp_al.reference.references import reference_kind

RELAXER_BYTES: Final = 750_000
"""Of one member of a direct relaxer."""


def cycle_bytes(campaign: Campaign, candidates: int | None = None, labels: int | None = None) -> int:
    """Bytes that one cycle writes, roughly; before it is known, with as many candidates and labels as may be."""
    potential = campaign.potential
    atoms = most_atoms(campaign)
    kind = potential_kind(potential)
    # energies, positions, forces, sigmas; and the features
    per_candidate = 8 * (9 * atoms + kind.gives(potential).features + 40)
    weights = kind.weights_bytes(potential)
    per_task = reference_kind(campaign.reference).bytes_per_task
    tasks = (campaign.select.per_cycle if labels is None else labels) * per_task
    if campaign.direct is not None:
        weights += campaign.direct.members * RELAXER_BYTES
    return (size_of_pools(campaign) if candidates is None else candidates) * per_candidate + weights + tasks


def size_of_pools(campaign: Campaign) -> int:
    """Candidates of all pools; of one of seeds alone at least as many as it has files."""
    return sum(pool.size or len(pool.seeds) for pool in campaign.pools)


def most_atoms(campaign: Campaign) -> int:
    """Atoms in the largest cell."""
    return max(sum(species_counts(pool.formula).values()) for pool in campaign.pools)
