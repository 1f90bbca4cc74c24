"""What every section of a campaign file or a machine file is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# strict: true is no number and 2.5 no count; a string of digits is text
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[int, Field(strict=True, gt=0)]
Range = tuple[Positive, Positive]
Fraction = Annotated[Number, Field(ge=0, le=1)]


class Section(BaseModel):
    """Frozen, and strict about keys: a misspelt key is an error, never a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)
