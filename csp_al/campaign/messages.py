"""What pydantic found, in plain words, at the keys of the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from csp_al.campaign.errors import Finding, KeyPath, Misfit, dotted, shown
from csp_al.campaign.open_section import OfKind, marker_of
from csp_al.campaign.section import Section
from csp_al.kinds import OURS
from csp_al.spelling import did_you_mean

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
    "dict_type": "keys with values are expected, not {value}",
    "model_": "keys with values are expected, not {value}",
    "greater_than_equal": "it must be at least {ge:g}, not {value}",
    "greater_than": "it must be above {gt:g}, not {value}",
    "less_than_equal": "it must be at most {le:g}, not {value}",
}

_PARAMETERS = ("calculator", "keywords of the calculator belong into parameters: {...}")
_MESH = (
    ("kspacing", "here it is kspacing, the largest distance between k-points in 1/Å (2 pi included)"),
    _PARAMETERS,
    ("", "reference.kspacing is that of other kinds"),
)
_CUTOFF = (
    ("encut", "here it is encut, in eV"),
    ("ecutwfc", "here it is ecutwfc, in Ry (1 Ry is 13.6057 eV)"),
    ("cutoff", "here it is cutoff, in eV"),
    _PARAMETERS,
    ("", "a plane-wave cutoff is that of another kind: encut of vasp (eV), ecutwfc of espresso (Ry)"),
)
_INCAR = (
    ("incar", "here it belongs into incar: {...}"),
    _PARAMETERS,
    ("", "an INCAR is that of kind: vasp"),
)
MEANT: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    **dict.fromkeys(("kpts", "kpoints", "k_points", "kgrid", "kmesh"), _MESH),
    **dict.fromkeys(("encut", "ecutwfc", "ecut", "enmax"), _CUTOFF),
    **dict.fromkeys(("ispin", "magmom", "ismear", "algo", "nelm", "ediff", "prec", "lreal", "ncore", "kpar"), _INCAR),
}
"""Keys of other codes and kinds: the key that is meant where the section has it, and what is said of it."""


def findings(error: ValidationError, value: Any, root: type[BaseModel]) -> Iterator[Finding]:
    """Every error of the validation of a value as the root, a campaign or another section, in plain words."""
    for details in error.errors(include_url=False):
        cause = details.get("ctx", {}).get("error")
        place = _follow(details["loc"], value, root)
        if isinstance(cause, Misfit):
            yield from (Finding((*place.key, *f.key), f.message, f.at_key) for f in cause.findings)
        else:
            yield _finding(details, place, root)


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


def _follow(loc: tuple[int | str, ...], value: Any, section: type[BaseModel]) -> _Place:
    """The place of an error that pydantic found at this location in a value."""
    key: KeyPath = ()
    while loc:
        field = section.model_fields.get(str(loc[0]))
        inner = _annotation(field) if field else None
        key, value, loc = (*key, loc[0]), _part(value, loc[0]), loc[1:]
        if loc and (entry := _entry(inner)):
            inner, key, value, loc = entry, (*key, loc[0]), _part(value, loc[0]), loc[1:]
        found = _section(inner, value)
        if not loc or found is None:
            return _Place((*key, *loc), section, field)
        section = found
    return _Place(key, section, None)


def _finding(  # noqa: PLR0911 - a table, one row for each kind
    details: ErrorDetails, place: _Place, root: type[BaseModel]
) -> Finding:
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
            return Finding(key, _unknown_key(key, place.section, root), at_key=True)
        case "string_type" if key[-1] == "[key]":
            return Finding(key[:-1], "a key here must be text", at_key=True)
        case "literal_error":
            words = get_args(_unwrapped(place.field.annotation)[0]) if place.field else ()
            allowed = [str(word) for word in words]
            hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
            return Finding(key, f"unknown word {shown(value)}{hint or '; allowed: ' + ', '.join(allowed)}")
    return Finding(key, f"{expected(details)}{place.meaning}")


def expected(details: ErrorDetails) -> str:
    """What a value must be that pydantic refused, in plain words."""
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    plain = next((text for start, text in _EXPECTED.items() if kind.startswith(start)), details["msg"])
    quoted = f'"{shown(value)}"' if isinstance(value, str) else shown(value)
    return plain.format_map({**context, "value": quoted})


def _unknown_key(key: KeyPath, section: type[BaseModel], root: type[BaseModel]) -> str:
    known = list(section.model_fields)
    word = str(key[-1])
    if meant := MEANT.get(word.lower()) if key[:-1] == ("reference",) else None:
        return f"unknown key; {next((words for name, words in meant if name in known), meant[-1][1])}"
    if kinds := _kinds_with(key, root):
        return f"unknown key here; it is one of kind {' and '.join(kinds)}"
    hint = did_you_mean(word, known)
    elsewhere = [] if hint else [path for path in _all_keys(root) if path[-1] == word]
    if elsewhere:
        hint = f", did you mean {' or '.join(dotted(path) for path in elsewhere)}?"
    return f"unknown key{hint or '; allowed: ' + ', '.join(known)}"


def _section(annotation: Any, value: Any = None) -> type[BaseModel] | None:
    """The section that a value of this annotation is; None if it is none."""
    plain, marks = _unwrapped(annotation)
    if not (isinstance(plain, type) and issubclass(plain, BaseModel)):
        return None
    mark = next((mark for mark in marks if isinstance(mark, OfKind)), None)
    if mark is None or not issubclass(plain, Section):
        return plain
    try:
        return mark.section(value, plain)
    except Misfit:
        return plain


def _entry(annotation: Any) -> Any:
    """The annotation of each entry of a list of sections; None if it is no such list."""
    plain, _ = _unwrapped(annotation)
    entries = get_args(plain)[:1] if get_origin(plain) is tuple else ()
    return next((entry for entry in entries if _section(entry)), None)


def _annotation(field: FieldInfo) -> Any:
    """As it was written, with what pydantic has taken out of it."""
    whole: Any = Annotated[field.annotation, *field.metadata, None]
    return whole


def _unwrapped(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without its metadata and without None, and the metadata."""
    plain, *marks = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    if get_origin(plain) in (Union, UnionType):
        some = [choice for choice in get_args(plain) if choice is not NoneType]
        plain = some[0] if len(some) == 1 else plain
    return plain, tuple(marks)


def _part(value: Any, key: int | str) -> Any:
    try:
        return value[key]
    except (LookupError, TypeError):
        return None


def _kinds_with(key: KeyPath, root: type[BaseModel]) -> list[str]:
    """Those of our kinds that this key would be right for."""
    if len(key) != 2 or key[0] not in root.model_fields:
        return []
    return [kind for kind, section in _sections(root.model_fields[key[0]]) if kind and key[1] in section.model_fields]


def _all_keys(root: type[BaseModel]) -> Iterator[KeyPath]:
    for name, field in root.model_fields.items():
        yield (name,)
        if isinstance(field.annotation, type):  # keys of what is optional are those of another section again
            inner = [key for _, section in _sections(field) for key in section.model_fields]
            yield from ((name, key) for key in dict.fromkeys(inner))


def _sections(field: FieldInfo) -> Iterator[tuple[str, type[BaseModel]]]:
    """The sections that a field may hold, each with its kind: of those that are ours; no kind where there are none."""
    mark = marker_of(field)
    for kind in OURS[mark.group] if mark else [""]:
        if section := _section(_annotation(field), {"kind": kind} if kind else None):
            yield kind, section
