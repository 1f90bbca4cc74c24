"""What a campaign file may say of the reference method whatever its kind, and what is tried when it fails."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from csp_al.campaign.errors import Finding, Misfit, shown
from csp_al.campaign.messages import findings
from csp_al.campaign.open_section import OfKind
from csp_al.campaign.section import Fraction, Positive, Section
from csp_al.kinds import REFERENCES


class Remedy(Section):
    """One row of a retry ladder: what a failed calculation is tried again with."""

    when: str = Field(description="regular expression, looked for in the reason")
    say: Annotated[str, Field(min_length=1)] = Field(description="what is done, in words")
    set: dict[str, Any] = Field(default_factory=dict, description="keys of the reference section that change")

    @field_validator("when")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            msg = f"{shown(value)!r} is no regular expression ({error})"
            raise ValueError(msg) from error
        return value


class ReferenceSection(Section):
    """What every reference has. The section of a kind is a subclass with further keys, each with its description."""

    curable: ClassVar[tuple[str, ...]] = ("time_limit",)
    """Keys that a remedy may set: how the answer is looked for, and for how long."""

    time_limit: Positive = Field(3600, description="s, wall time of one evaluation; a longer one has failed")
    max_force: Positive = Field(100, description="eV/Å, a label with a larger force trains nothing")
    max_stress: Positive = Field(20, description="eV/Å^3 (160 GPa are 1), a label with a larger one trains nothing")
    max_fail_fraction: Fraction = Field(
        0.5, description="the campaign stops when a larger share of a cycle's labels has failed"
    )
    remedies: tuple[Remedy, ...] = Field(
        (),
        description="tried before our own, e.g. {when: took longer, say: more time, set: {time_limit: 7200}}",
    )
    kind: str

    @model_validator(mode="after")
    def _remedies_fit(self) -> Self:
        findings = [
            Finding(("remedies", row, "set", *found.key), found.message, found.at_key)
            for row, remedy in enumerate(self.remedies)
            for found in _misfits(self, remedy)
        ]
        if findings:
            raise Misfit(findings)
        return self

    @property
    def longest_evaluation(self) -> float:
        """Seconds that an evaluation may take, with whatever remedy."""
        return max(self.time_limit, *(float(remedy.set.get("time_limit", 0)) for remedy in self.remedies), 0.0)

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """The section with the keys that a remedy sets; mappings are merged, other values replaced."""
        bare = self.model_dump() | {"remedies": ()}
        return type(self).model_validate(_merged(bare, settings)).model_copy(update={"remedies": self.remedies})

    def senseless(self) -> Iterator[Finding]:
        """What makes no sense in values that are sound in themselves, by key; nothing may be run to find out."""
        yield from ()


AnyReference = Annotated[ReferenceSection, OfKind(REFERENCES)]
"""The section of the kind that it names."""


def _merged(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(before)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and "name" not in value:
            merged[key] = _merged(old, value)
        else:  # a dictionary with a name is another method, with keys of its own
            merged[key] = value
    return merged


def _misfits(section: ReferenceSection, remedy: Remedy) -> Iterator[Finding]:
    """What the section would not take of what a remedy sets."""
    for key in remedy.set:
        if key in type(section).model_fields and key not in section.curable:
            message = f"a remedy cannot change {key}: its labels would not be those of the others; it may set "
            yield Finding((key,), message + ", ".join(section.curable), at_key=True)
    try:
        section.with_settings(remedy.set)
    except ValidationError as error:
        yield from findings(error, section.model_dump() | remedy.set, type(section))
