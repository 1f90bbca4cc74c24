"""What a campaign file may say of the potentials whatever their kind."""

from __future__ import annotations

from typing import Annotated, Final

from csp_al.campaign.open_section import OfKind
from csp_al.campaign.section import Section
from csp_al.interfaces import PotentialKind
from csp_al.kinds import POTENTIALS, find

DEFAULT: Final = "schnet"


class PotentialSection(Section):
    """The ensemble and how it is trained. The section of a kind is a subclass with further keys, each described.

    Where it has ``warm_start`` and that is true, each cycle trains on from the ensemble of the one before. Where it has
    ``cutoff`` (Å), atoms do not see each other beyond it; but for ``global_node``, where it has that and it is true, by
    which each sees a mean over all.
    """

    kind: str


AnyPotential = Annotated[PotentialSection, OfKind(POTENTIALS, DEFAULT)]
"""The section of the kind that it names."""


def default_potential() -> PotentialSection:
    """The section of a campaign file that says nothing of its potential."""
    section: PotentialSection = find(POTENTIALS, DEFAULT).section()
    return section


def potential_kind(section: PotentialSection) -> PotentialKind:
    """The record of the kind that a section names. Raises ValueError for a kind that cannot be found or imported."""
    kind: PotentialKind = find(POTENTIALS, section.kind)
    return kind
