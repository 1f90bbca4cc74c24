"""What a direct relaxer is made of and how it is trained; nothing here loads torch."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from csp_al.campaign.section import Count, Positive, Section

Kind = Literal["deeprelax", "dogss"]


class DirectSection(Section):
    """Members differ by their first weights and the order of their pairs; steps are those of each.

    A step has as many structures as have about ``batch_atoms``, so that its time depends little on their size.
    """

    kind: Kind
    members: Count
    steps: Count
    seed: Annotated[int, Field(ge=0)] = 0
    features: Count = 64
    interactions: Count = 3
    cutoff: Positive = 5.0
    learning_rate: Positive = 3e-3
    batch_atoms: Count = 256


DEFAULTS: Final[dict[Kind, DirectSection]] = {
    "deeprelax": DirectSection(kind="deeprelax", members=4, steps=800),
    "dogss": DirectSection(kind="dogss", members=2, steps=1200),
}
