"""A campaign file with every default, its unit and its meaning, made from the models so that it is never stale."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Final, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from csp_al.campaign.errors import Misfit, shown
from csp_al.campaign.messages import findings
from csp_al.campaign.models import Campaign
from csp_al.campaign.open_section import marker_of
from csp_al.campaign.references import ReferenceSection
from csp_al.campaign.section import Section
from csp_al.kinds import REFERENCES, names

WIDTH = 116  # columns of the file
MOST_INDENT = 34  # column in which comments begin at the latest

HEADER = """\
# A campaign of csp-al: everything that may be set, with its default.
# Only name, pool.formula and reference are needed; a line that keeps its default may go.
# Units are those of ASE: eV, Å, eV/Å, eV/Å^3.
"""
SHORT_HEADER = "# What a campaign of csp-al begins with; 'csp-al init' without --short shows all that may be set."
FIRST: Final = {
    "pool": ("formula", "size"),
    "reference": ("kind", "cutoff", "ecutwfc", "encut", "kspacing", "pseudo_dir", "pp"),
    "budget": ("labels",),
}
"""Keys of the short file, by section; of a reference those that it has."""
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_WORDS_OF_YAML = frozenset({"null", "true", "false"})


def campaign_template(name: str, formula: str, reference: str, *, short: bool = False) -> str:
    """The text of a campaign file for a formula such as Si8 and a kind of reference such as gpaw.

    The short one has what a first campaign is about, and leaves all else to the defaults.
    Raises ValueError, in plain words, for a name, formula or reference that no campaign can have.
    """
    kinds = names(REFERENCES)
    if reference not in kinds:
        raise ValueError(f"no reference is called {shown(reference)!r}; allowed: {', '.join(kinds)}")
    try:
        needed = _needed(_section_of_reference(reference)) | {"kind": reference}
    except Misfit as misfit:
        raise ValueError(f"reference.{misfit}") from misfit
    given = {"name": name, "pool": {"formula": formula}, "reference": needed}
    try:
        campaign = Campaign.model_validate(given)
    except ValidationError as error:
        raise ValueError("; ".join(map(str, findings(error, given, Campaign)))) from None
    if short:
        return _short(campaign, set(needed))
    scalars: list[tuple[str, Any, FieldInfo]] = []
    sections: list[str] = []
    for field_name, field in Campaign.model_fields.items():
        value = getattr(campaign, field_name)
        if isinstance(value, Section):
            sections.append(_section(field_name, value, field))
        else:
            scalars.append((field_name, value, field))
    return "\n".join([HEADER, *_lines(scalars, ""), *sections])


def _short(campaign: Campaign, needed: set[str]) -> str:
    """Name, pool, reference and budget with the keys of `FIRST`, and those that have no default."""
    lines = [SHORT_HEADER, *_lines([("name", campaign.name, FieldInfo())], "")]
    for name, keys in FIRST.items():
        section, field = getattr(campaign, name), Campaign.model_fields[name]
        fields = type(section).model_fields
        shown = [key for key in fields if key in keys or (name == "reference" and key in needed)]
        rows = [(key, getattr(section, key), _described(key, fields[key], field)) for key in shown]
        lines += [f"{name}:", *_lines(sorted(rows, key=lambda row: row[0] != "kind"), "  ")]
    return "\n".join([*lines, ""])


def campaign_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of the campaign file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Campaign.model_json_schema()}


def _section_of_reference(kind: str) -> type[Section]:
    mark = marker_of(Campaign.model_fields["reference"])
    assert mark is not None
    return mark.section({"kind": kind}, ReferenceSection)


def _needed(section: type[Section]) -> dict[str, Any]:
    """The keys that have no default, with their first example."""
    needed = {name: field for name, field in section.model_fields.items() if field.is_required() and name != "kind"}
    return {name: field.examples[0] for name, field in needed.items() if field.examples}


def _section(name: str, section: Section, field: FieldInfo) -> str:
    fields = type(section).model_fields
    order = sorted(fields, key=lambda key: key != "kind")  # the kind first, then as in the models
    rows = [(key, getattr(section, key), _described(key, fields[key], field)) for key in order]
    title = (type(section).__doc__ or "").strip()
    return "\n".join(["", f"# {title}", f"{name}:", *_lines(rows, "  ")])


def _lines(rows: list[tuple[str, Any, FieldInfo]], indent: str) -> Iterator[str]:
    """Keys and values with their comments below one another."""
    settings = [f"{indent}{name}: {_yaml(value)}" for name, value, _ in rows]
    column = min(max(map(len, settings)) + 2, MOST_INDENT)
    for setting, (_, _, field) in zip(settings, rows, strict=True):
        comments = textwrap.wrap(field.description or "", WIDTH - column - 2)
        if len(setting) + 2 > column:
            yield from (f"{' ' * len(indent)}# {line}" for line in comments)
            yield setting
            continue
        for row, line in enumerate(comments or [""]):
            yield f"{setting if row == 0 else '':<{column}}# {line}".rstrip(" #")


def _described(key: str, inner: FieldInfo, field: FieldInfo) -> FieldInfo:
    """The field of a section's key; that of a kind tells all that there are."""
    if key != "kind":
        return inner
    mark = marker_of(field)
    kinds = names(mark.group) if mark else get_args(inner.annotation)
    parts = (inner.description, f"one of: {', '.join(kinds)}")
    return FieldInfo(annotation=inner.annotation, description="; ".join(part for part in parts if part))


def _yaml(value: Any) -> str:
    """A value in flow style; JSON is YAML, and words need no quotes."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value not in _WORDS_OF_YAML:
        return value
    return json.dumps(value, ensure_ascii=False)
