"""A campaign file with every default, its unit and its meaning, made from the models so that it is never stale."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from csp_al.campaign.errors import shown
from csp_al.campaign.messages import findings
from csp_al.campaign.models import Campaign
from csp_al.campaign.references import AnyReference
from csp_al.campaign.section import Section

WIDTH = 116  # columns of the file
MOST_INDENT = 34  # column in which comments begin at the latest

HEADER = """\
# A campaign of csp-al: everything that may be set, with its default.
# Only name, pool.formula and reference are needed; a line that keeps its default may go.
# Units are those of ASE: eV, Å, eV/Å, eV/Å^3.
"""
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_WORDS_OF_YAML = frozenset({"null", "true", "false"})


def campaign_template(name: str, formula: str, reference: str) -> str:
    """The text of a campaign file for a formula such as Si8 and a kind of reference such as gpaw.

    Raises ValueError, in plain words, for a name, formula or reference that no campaign can have.
    """
    kinds = reference_kinds()
    if reference not in kinds:
        raise ValueError(f"no reference is called {shown(reference)!r}; allowed: {', '.join(kinds)}")
    needed = _needed(kinds[reference]) | {"kind": reference}
    try:
        campaign = Campaign.model_validate({"name": name, "pool": {"formula": formula}, "reference": needed})
    except ValidationError as error:
        raise ValueError("; ".join(map(str, findings(error)))) from None
    scalars: list[tuple[str, Any, FieldInfo]] = []
    sections: list[str] = []
    for field_name, field in Campaign.model_fields.items():
        value = getattr(campaign, field_name)
        if isinstance(value, Section):
            sections.append(_section(field_name, value))
        else:
            scalars.append((field_name, value, field))
    return "\n".join([HEADER, *_lines(scalars, ""), *sections])


def campaign_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of the campaign file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Campaign.model_json_schema()}


def reference_kinds() -> dict[str, type[Section]]:
    """The sections that describe a reference method, by their kind."""
    sections = get_args(get_args(AnyReference)[0])
    return {get_args(section.model_fields["kind"].annotation)[0]: section for section in sections}


def _needed(section: type[Section]) -> dict[str, Any]:
    """The keys that have no default, with their first example."""
    needed = {name: field for name, field in section.model_fields.items() if field.is_required() and name != "kind"}
    return {name: field.examples[0] for name, field in needed.items() if field.examples}


def _section(name: str, section: Section) -> str:
    fields = type(section).model_fields
    order = sorted(fields, key=lambda field: field != "kind")  # the kind first, then as in the models
    rows = [(field, getattr(section, field), fields[field]) for field in order]
    title = (type(section).__doc__ or "").strip()
    return "\n".join(["", f"# {title}", f"{name}:", *_lines(rows, "  ")])


def _lines(rows: list[tuple[str, Any, FieldInfo]], indent: str) -> Iterator[str]:
    """Keys and values with their comments below one another."""
    settings = [f"{indent}{name}: {_yaml(value)}" for name, value, _ in rows]
    column = min(max(map(len, settings)) + 2, MOST_INDENT)
    for setting, (name, _, field) in zip(settings, rows, strict=True):
        comments = textwrap.wrap(_comment(name, field), WIDTH - column - 2)
        if len(setting) + 2 > column:
            yield from (f"{' ' * len(indent)}# {line}" for line in comments)
            yield setting
            continue
        for row, line in enumerate(comments or [""]):
            yield f"{setting if row == 0 else '':<{column}}# {line}".rstrip(" #")


def _comment(name: str, field: FieldInfo) -> str:
    described = field.description or ""
    if name != "kind":
        return described
    kinds = get_args(field.annotation)
    allowed = kinds if len(kinds) > 1 else tuple(reference_kinds())
    return "; ".join(part for part in (described, f"one of: {', '.join(allowed)}") if part)


def _yaml(value: Any) -> str:
    """A value in flow style; JSON is YAML, and words need no quotes."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value not in _WORDS_OF_YAML:
        return value
    return json.dumps(value, ensure_ascii=False)
