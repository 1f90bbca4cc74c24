"""What pydantic found, in plain words, at the keys of the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from csp_al.campaign.errors import Finding, KeyPath, Misfit, dotted, shown
from csp_al.campaign.models import Campaign
from csp_al.campaign.spelling import did_you_mean

_EXPECTED = {  # by the beginning of pydantic's name of the error; the field's description follows
    "int_": "a whole number is expected, not {value}",
    "float_": "a number is expected, not {value}",
    "finite_number": "a finite number is expected, not {value}",
    "bool_": "true or false is expected, not {value}",
    "string_type": "text is expected, not {value}; quote what is meant as text",
    "string_unicode": "text is expected; {value} holds half a character",
    "string_too_long": "{value} is longer than {max_length} characters",
    "string_pattern_mismatch": "{value} does not fit",
    "tuple_type": "a list in [ ] is expected, not {value}",
    "dict_type": "a section of keys is expected, not {value}",
    "model_": "a section of keys is expected, not {value}",
    "greater_than_equal": "it must be at least {ge:g}, not {value}",
    "greater_than": "it must be above {gt:g}, not {value}",
    "less_than_equal": "it must be at most {le:g}, not {value}",
}


def findings(error: ValidationError, root: type[BaseModel] = Campaign) -> Iterator[Finding]:
    """Every error of the validation of a campaign, or of another section, in plain words."""
    for details in error.errors(include_url=False):
        cause = details.get("ctx", {}).get("error")
        place = _follow(details["loc"], root)
        if isinstance(cause, Misfit):
            yield from (Finding((*place.key, *f.key), f.message, f.at_key) for f in cause.findings)
        else:
            yield _finding(details, place)


@dataclass(frozen=True)
class _Place:
    """A key of the file, the section that it would stand in, and its field there, if there is one."""

    key: KeyPath
    section: type[BaseModel]
    field: FieldInfo | None

    @property
    def meaning(self) -> str:
        """The description of the field, as the end of a message."""
        return f" ({self.field.description})" if self.field and self.field.description else ""


def _follow(loc: tuple[int | str, ...], section: type[BaseModel]) -> _Place:
    """Pydantic's location without the tags of unions, which are no keys of the file."""
    key: KeyPath = ()
    while loc:
        field = section.model_fields.get(str(loc[0]))
        key, loc = (*key, loc[0]), loc[1:]
        inner: Any = field.annotation if field else None
        if field and loc and _choices(field):
            inner, loc = _choices(field)[str(loc[0])], loc[1:]
        elif loc and (entry := _entry(inner)):
            inner, key, loc = entry, (*key, loc[0]), loc[1:]
        if not loc or not _is_section(inner):
            return _Place((*key, *loc), section, field)
        section = inner
    return _Place(key, section, None)


def _finding(details: ErrorDetails, place: _Place) -> Finding:  # noqa: PLR0911 - a table, one row for each kind
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    key = place.key
    match kind:
        case "value_error":
            return Finding(key, str(context["error"]))
        case "missing" if isinstance(key[-1], int):
            return Finding(key[:-1], f"two numbers are expected, not {len(value)}{place.meaning}")
        case "too_long":
            return Finding(key, f"two numbers are expected, not {len(value)}{place.meaning}")
        case "missing":
            return Finding(key, f"missing{place.meaning}")
        case "extra_forbidden" | "invalid_key":
            return Finding(key, _unknown_key(key, place.section), at_key=True)
        case "string_type" if key[-1] == "[key]":
            return Finding(key[:-1], "a key here must be text", at_key=True)
        case "literal_error":
            allowed = [str(choice) for choice in get_args(place.field.annotation)] if place.field else []
            return Finding(key, _unknown_word(value, allowed))
        case "union_tag_invalid" | "union_tag_not_found":
            return _unknown_kind(key, place.field, value)
    plain = next((text for start, text in _EXPECTED.items() if kind.startswith(start)), details["msg"])
    quoted = f'"{shown(value)}"' if isinstance(value, str) else shown(value)
    return Finding(key, f"{plain.format_map({**context, 'value': quoted})}{place.meaning}")


def _unknown_key(key: KeyPath, section: type[BaseModel]) -> str:
    known = list(section.model_fields)
    word = str(key[-1])
    hint = did_you_mean(word, known)
    elsewhere = [] if hint else [path for path in _all_keys() if path[-1] == word]
    if elsewhere:
        hint = f", did you mean {' or '.join(dotted(path) for path in elsewhere)}?"
    return f"unknown key{hint or '; allowed: ' + ', '.join(known)}"


def _unknown_kind(key: KeyPath, field: FieldInfo | None, value: Any) -> Finding:
    allowed = list(_choices(field)) if field else []
    if "kind" not in value:
        return Finding((*key, "kind"), f"missing; allowed: {', '.join(allowed)}")
    return Finding((*key, "kind"), _unknown_word(value["kind"], allowed))


def _unknown_word(value: Any, allowed: list[str]) -> str:
    hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
    return f"unknown word {shown(value)}{hint or '; allowed: ' + ', '.join(allowed)}"


def _choices(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The sections that a field may hold, by their kind; none if it is no union."""
    if not field.discriminator:
        return {}
    return {get_args(section.model_fields["kind"].annotation)[0]: section for section in get_args(field.annotation)}


def _entry(kind: Any) -> type[BaseModel] | None:
    """The section that each entry of a list is, if the list is one of sections."""
    entries = get_args(kind)[:1] if get_origin(kind) is tuple else ()
    return next((entry for entry in entries if _is_section(entry)), None)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _all_keys() -> Iterator[KeyPath]:
    for name, field in Campaign.model_fields.items():
        yield (name,)
        for section in [field.annotation, *_choices(field).values()]:
            if _is_section(section):
                yield from ((name, inner) for inner in section.model_fields)  # type: ignore[union-attr]
