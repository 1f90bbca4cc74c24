"""What a campaign file may say of a direct relaxer: a network that gives relaxations of related cells their start."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from csp_al.campaign.section import Count, Section


class Direct(Section):
    """A direct relaxer, trained in each cycle on where the ensemble brought the candidates and their offspring."""

    kind: Literal["deeprelax"] = Field(description="atoms and cell in one step, with an uncertainty")
    pairs: Annotated[int, Field(strict=True, ge=20)] = Field(
        200, description="number of trusted relaxations to learn from, at least; with fewer, nothing is trained yet"
    )
    members: Annotated[int, Field(strict=True, ge=2)] = Field(2, description="number of networks asked together")
    steps: Count = Field(300, description="number of training steps of each, in every cycle")
