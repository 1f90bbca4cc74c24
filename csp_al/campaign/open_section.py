"""A section of the campaign file whose keys follow from its kind, where packages may add kinds.

    AnyReference = Annotated[ReferenceSection, OfKind(REFERENCES)]

Of a run directory somebody else may be the author: a section of a kind that is not ours, and that the "trust" in the
context of the validation leaves out, is kept as it is, and nothing of that kind is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from pydantic import ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo, create_model
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from csp_al.campaign.errors import Finding, Misfit, shown
from csp_al.campaign.section import Section, Trust
from csp_al.importing import is_looking
from csp_al.kinds import BrokenKindError, UnknownKindError, find, installed, is_ours, names
from csp_al.spelling import did_you_mean

_SAYS_KIND: Final[JsonSchemaValue] = {"required": ["kind"]}


class Kept(Section):
    """A section of a kind that was not imported, with all its keys."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True)
class OfKind:
    """Annotation of a base section: the keys are those of the kind's own section, which is a subclass of it.

    ``default`` is the kind of a section that does not say one; None: it must.
    """

    group: str
    default: str | None = None

    def section(self, value: Any, base: type[Section]) -> type[Section]:
        """The section that this value should be. Raises `Misfit` at its kind."""
        if not isinstance(value, Mapping):
            return base  # which says so
        name = value.get("kind", self.default)
        if not isinstance(name, str):
            wrong = "missing; allowed: " + ", ".join(names(self.group)) if name is None else self._unknown(name)
            raise Misfit([Finding(("kind",), wrong)])
        try:
            section = find(self.group, name).section
        except UnknownKindError:
            raise Misfit([Finding(("kind",), self._unknown(name))]) from None
        except BrokenKindError as error:
            raise Misfit([Finding(("kind",), str(error))]) from error
        if not (isinstance(section, type) and issubclass(section, base)):
            message = f"the section of {shown(name)} is no subclass of {base.__name__}"
            raise Misfit([Finding(("kind",), message)])
        return section

    def _unknown(self, name: object) -> str:
        allowed = names(self.group)
        hint = did_you_mean(name, allowed) if isinstance(name, str) else ""
        return f"unknown word {shown(name)}{hint or '; allowed: ' + ', '.join(allowed)}"

    def _trusted(self, name: str, info: ValidationInfo) -> bool:
        trust: Trust = (info.context or {}).get("trust", not is_looking() or name in installed(self.group))
        return trust if isinstance(trust, bool) else (self.group, name) in trust

    def _validate(self, value: Any, info: ValidationInfo, base: type[Section]) -> Section:
        if isinstance(value, base):
            return value
        if isinstance(value, Mapping):
            name = value.get("kind", self.default)
            if isinstance(name, str) and not is_ours(self.group, name) and not self._trusted(name, info):
                return _kept(base).model_validate(value, context=info.context)
        return self.section(value, base).model_validate(value, context=info.context)

    def __get_pydantic_core_schema__(self, base: type[Section], _: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any, info: ValidationInfo) -> Section:
            return self._validate(value, info, base)

        return core_schema.with_info_plain_validator_function(
            validate,
            serialization=core_schema.simple_ser_schema("any"),  # by what it is, not by what is declared
            metadata={"base": base},
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        base = schema["metadata"]["base"]
        choices, broken = {}, {}
        for name in names(self.group):
            try:
                choices[name] = _told_apart(name, self.section({"kind": name}, base)).__pydantic_core_schema__
            except Misfit as misfit:  # a package that is broken takes nothing from the others
                broken[name] = str(misfit)
        found = handler(core_schema.tagged_union_schema(choices, discriminator="kind"))
        default = found["discriminator"]["mapping"].get(self.default)
        found["oneOf"] = [one if one.get("$ref") == default else one | _SAYS_KIND for one in found["oneOf"]]
        found["oneOf"] += [_of_any_keys({"const": name}, words) for name, words in broken.items()]
        found["oneOf"].append(_of_any_keys({"type": "string", "pattern": r"\."}, "Any kind by its path."))
        return found


def marker_of(field: FieldInfo) -> OfKind | None:
    """The annotation of a field whose section follows from its kind."""
    return next((mark for mark in field.metadata if isinstance(mark, OfKind)), None)


def _of_any_keys(kind: JsonSchemaValue, description: str) -> JsonSchemaValue:
    return {"type": "object", "description": description, "properties": {"kind": kind}} | _SAYS_KIND


@cache
def _kept(base: type[Section]) -> type[Section]:
    """A base section that takes any further key as it is."""
    return create_model(f"Kept{base.__name__}", __base__=(base, Kept))


def _told_apart(name: str, section: type[Section]) -> type[Section]:
    """The section with its kind as the one word that a schema can tell it by."""
    if section.model_fields["kind"].annotation is not str:
        return section
    word: Any = Literal[name]
    return create_model(f"{section.__name__}_{name}", __base__=section, __doc__=section.__doc__, kind=(word, ...))
