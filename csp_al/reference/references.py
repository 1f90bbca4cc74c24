"""From the reference section of a campaign file to a reference method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from csp_al.campaign.machine import Machine
from csp_al.campaign.open_section import Kept
from csp_al.campaign.references import AnyReference
from csp_al.interfaces import Reference, ReferenceKind
from csp_al.kinds import REFERENCES, find


def reference_kind(section: AnyReference) -> ReferenceKind:
    """The record of the kind that a section names. Raises ValueError for a kind that cannot be found or imported."""
    kind: ReferenceKind = find(REFERENCES, section.kind)
    return kind


def build_reference(
    section: AnyReference, species: Sequence[str] = (), machine: Machine | None = None, base: Path = Path()
) -> Reference:
    """The reference method that a section describes; nothing is imported or checked until it is asked for.

    The species (chemical symbols) tell `check` and `pinned` which datasets a campaign needs, the machine where programs
    are; ``base`` is the folder that file names in the section refer to.
    """
    return reference_kind(section).build(section, species, machine or Machine(), base)


def places(section: AnyReference) -> tuple[str, ...]:
    """Keys of the section that say where something is, and change no result; none are known of a kept section."""
    return () if isinstance(section, Kept) else reference_kind(section).places
