"""What every section of a campaign file or a machine file is made of, and what a run directory remembers of it.

A run keeps the settings that it began with, by a version that may not have known all keys of this one. What is named
by its settings (a task, a potential, a control) must keep its name, so such keys are left out of `Section.written`
as long as they stand at their defaults. So the default of a new key must mean what was before there was the key, and
whoever changes it afterwards gives older runs the old one, by an upgrade of "settings" in `csp_al.formats`.

    campaign = Campaign.recall(content)
    content == campaign.written()
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)

# strict: true is no number and 2.5 no count; a string of digits is text
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[int, Field(strict=True, gt=0)]
Whole = Annotated[int, Field(strict=True, ge=0)]
Range = tuple[Positive, Positive]
Fraction = Annotated[Number, Field(ge=0, le=1)]

AS_WRITTEN: Final = "as written"
"""Key of the context in which sections are read from a run directory, and written to one."""

Trust = bool | Collection[tuple[str, str]]
"""Whether kinds that are not ours may be imported: all, none, or these, by group and name."""


class Section(BaseModel):
    """Frozen, and strict about keys: a misspelt key is an error, never a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    _unknown: frozenset[str] = PrivateAttr(frozenset())
    """Keys that were not known to the version that wrote this section."""

    @classmethod
    def recall(cls, content: Mapping[str, Any], trust: Trust = False) -> Self:
        """The section that a run directory holds, which knows what it did not say. Raises ValidationError."""
        return cls.model_validate(content, context={AS_WRITTEN: True, "trust": trust})

    def written(self) -> dict[str, Any]:
        """The section as JSON, without what was not known when it was first written and stands at its default."""
        return self.model_dump(mode="json", context={AS_WRITTEN: True})

    def agrees_with(self, content: Any) -> bool:
        """Whether JSON of this version or an earlier one says the same; a key that it lacks counts as its default."""
        try:
            said = type(self).model_validate(content)
        except ValidationError:
            return False
        return said.model_dump(mode="json") == self.model_dump(mode="json")

    @model_validator(mode="after")
    def _remember(self, info: ValidationInfo) -> Self:
        if info.context and AS_WRITTEN in info.context:
            self._unknown = frozenset(type(self).model_fields) - self.model_fields_set
        return self

    @model_serializer(mode="wrap")
    def _leave_out_unknown(self, dump: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        content: dict[str, Any] = dump(self)
        if not info.context or AS_WRITTEN not in info.context:
            return content
        return {key: value for key, value in content.items() if key not in self._unknown or not self._is_default(key)}

    def _is_default(self, key: str) -> bool:
        default = type(self).model_fields[key].get_default(call_default_factory=True)
        return bool(getattr(self, key) == default)
