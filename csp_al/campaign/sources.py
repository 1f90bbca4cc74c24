"""What a campaign file may say of a source of candidates whatever its kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from csp_al.campaign.errors import Finding
from csp_al.campaign.open_section import OfKind
from csp_al.campaign.section import Number, Section
from csp_al.kinds import SOURCES


class SourceSection(Section):
    """A source of candidates. The section of a kind is a subclass with further keys, each with its description."""

    kind: str
    share: Annotated[Number, Field(gt=0, le=1)] = Field(description="fraction of pool.size that comes from this source")

    def senseless(self, counts: Mapping[str, int]) -> Iterator[Finding]:  # noqa: ARG002
        """What cannot be where a cell has so many atoms of each species, by key of the section; nothing by default."""
        yield from ()


AnySource = Annotated[SourceSection, OfKind(SOURCES)]
"""The section of the kind that it names."""
