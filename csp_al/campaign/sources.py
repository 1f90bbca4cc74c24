"""What a campaign file may say of a source of candidates whatever its kind."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from csp_al.campaign.open_section import OfKind
from csp_al.campaign.section import Number, Section
from csp_al.kinds import SOURCES


class SourceSection(Section):
    """A source of candidates. The section of a kind is a subclass with further keys, each with its description."""

    kind: str
    share: Annotated[Number, Field(gt=0, le=1)] = Field(description="fraction of pool.size that comes from this source")


AnySource = Annotated[SourceSection, OfKind(SOURCES)]
"""The section of the kind that it names."""
