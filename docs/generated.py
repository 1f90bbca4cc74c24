"""The parts of the reference that are written by the code itself, as Markdown.

A page has a line such as ``<!-- generated: campaign_file -->``, in whose place the text of the function of this name
comes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from typer.cli import get_docs_for_click

from csp_al.campaign.clusters import Cluster, Potentials, QueuePotentials, SlurmPotentials
from csp_al.campaign.direct import Direct
from csp_al.campaign.foundation import Foundation
from csp_al.campaign.machine import Machine
from csp_al.campaign.models import Campaign, Grow, LabelFile, Pool
from csp_al.campaign.open_section import marker_of
from csp_al.campaign.references import ReferenceSection, Remedy
from csp_al.campaign.section import Section
from csp_al.campaign.sources import SourceSection
from csp_al.cli import app
from csp_al.kinds import ENGINES, OURS, SOURCES, find
from csp_al.potential.kind import NetworkPotential
from csp_al.reasons import Failure
from csp_al.reference import espresso, gpaw, vasp
from csp_al.report import columns as tables

NAME = {"scf": "SCF", "mpi": "MPI", "fermi": "Fermi"}
NAMES = re.compile("|".join(NAME))
QUOTED_WORD = re.compile(r'"([A-Za-z][\w-]*)"')
MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
NESTED = {"pool": Pool, "foundation": Foundation, "direct": Direct}
"""Sections that the schema of a campaign file hides behind null or a second use."""
MEANING = {
    "reference": "the method whose energies count: a DFT code, or any ASE calculator",
    "potential": "the ensemble and how it is trained",
}
"""Of sections whose docstrings are for developers."""
COMMON = {"reference": ReferenceSection, "potential": NetworkPotential}
BELOW = {"pool": {"pool.grow": Grow}, "reference": {"reference.remedies": Remedy}}


def fill(_: Any, __: str, content: list[str]) -> None:
    """Put the generated parts into a page; Sphinx calls it for each page that it reads."""
    content[0] = MARK.sub(lambda found: WRITERS[found[1]](), content[0])


def stale(_: Any, env: Any, *__: Any) -> list[str]:
    """The pages with generated parts, which are written anew in each build, since the code may have changed."""
    return [page for page in env.found_docs if MARK.search(Path(env.doc2path(page)).read_text(encoding="utf-8"))]


def indented_is_code(_: Any, what: str, __: str, ___: Any, ____: Any, lines: list[str]) -> None:
    """Make examples of what is indented in the docstring of a module."""
    if what != "module":
        return
    for row in reversed(range(1, len(lines))):
        if lines[row].startswith("    ") and not lines[row - 1]:
            lines[row:row] = ["::", ""]


def campaign_file() -> str:
    """Every section of a campaign file with its keys; those that all kinds have come once."""
    parts = ["## The file itself", _top(), "## labels", _doc(LabelFile), _keys(LabelFile)]
    for name, field in Campaign.model_fields.items():
        if mark := marker_of(field):
            parts += _kinds(name, mark.group, COMMON[name], "##")
        elif section := NESTED.get(name) or _section_of(field):
            parts += [f"## {name}", _doc(section), _keys(section)]
        for title, section in BELOW.get(name, {}).items():
            parts += [f"## {title}", _doc(section), _keys(section)]
        if name == "pool":
            parts += _kinds("pool.sources", SOURCES, SourceSection, "##")
    return "\n\n".join(parts)


def machine_file() -> str:
    """The keys of a machine file for each engine."""
    engines: dict[type[Section], list[str]] = {}
    for name in OURS[ENGINES]:
        engines.setdefault(find(ENGINES, name).section, []).append(name)
    parts = ["## Any engine", _keys(Machine), "## Any cluster", _keys(Cluster, Machine)]
    for section, names in engines.items():
        if section is not Machine:
            common = Cluster if issubclass(section, Cluster) else Machine
            parts += [f"## engine: {', '.join(names)}", _doc(section), _keys(section, common)]
    parts += ["## potentials", _doc(Potentials), _keys(Potentials)]
    parts += ["Of Slurm also:", _keys(SlurmPotentials, Potentials), "Elsewhere:", _keys(QueuePotentials, Potentials)]
    return "\n\n".join(parts)


def verbs() -> str:
    """Every verb with its arguments and options."""
    group = typer.main.get_command(app)
    context = typer.Context(group)
    texts = [
        get_docs_for_click(obj=group.get_command(context, verb), ctx=context, name=f"csp-al {verb}", indent=1)
        for verb in group.list_commands(context)
    ]
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", "".join(texts))
    return re.sub(r"\{([A-Z]+)\}", r"\1", text)


def remedies() -> str:
    """What is tried again, and for which failures, with each code."""
    parts = []
    for title, module in {"Quantum ESPRESSO": espresso, "VASP": vasp, "GPAW": gpaw}.items():
        rows = [(_failures(one.kinds), one.say, _value(one.set) if one.set else "") for one in module.LADDER]
        parts += [f"## {title}", _table(("failure", "what is done", "keys that change"), rows)]
    return "\n\n".join(parts)


def columns() -> str:
    """The tables of a run, with name and type of each column."""
    parts = []
    for name, table in vars(tables).items():
        if name.isupper() and isinstance(table, dict):
            cells = ", ".join(f"`{column}` {kind}" for column, kind in table.items())
            parts.append(f"**{name}**: {cells}")
    return "\n\n".join(parts)


def shipped_kinds() -> str:
    """The names of all kinds that csp_al has."""
    rows = [(f"`{group}`", ", ".join(f"`{name}`" for name in kinds)) for group, kinds in OURS.items()]
    return _table(("group of entry points", "kinds of csp_al itself"), rows)


WRITERS = {writer.__name__: writer for writer in (campaign_file, machine_file, verbs, remedies, columns, shipped_kinds)}


def _top() -> str:
    """The keys of the file, those of sections with links to what may stand in them."""
    rows = []
    for name, field in Campaign.model_fields.items():
        section = COMMON.get(name) or NESTED.get(name) or _section_of(field)
        key = f"[`{name}`](#{name})" if section or name == "labels" else f"`{name}`"
        rows.append((key, _default(field) or "`{}`", field.description or MEANING.get(name) or _doc(section)))
    return _table(("key", "default", "meaning"), rows)


def _kinds(name: str, group: str, common: type[Section], level: str) -> list[str]:
    """What all kinds of a section have, and what each has beyond that."""
    parts = [f"{level} {name}", "Whatever its kind:", _keys(common)]
    for kind in OURS[group]:
        section = find(group, kind).section
        parts += [f"{level}# {name}, kind: {kind}", _doc(section), _keys(section, common)]
    return parts


def _failures(kinds: Collection[Failure]) -> str:
    if len(kinds) > len(Failure) / 2:
        return f"any but {_failures(set(Failure) - set(kinds))}" if len(kinds) < len(Failure) else "any"
    return ", ".join(sorted(NAMES.sub(lambda name: NAME[name[0]], kind.replace("_", " ")) for kind in kinds))


def _section_of(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _doc(section: type[Section] | None) -> str:
    return (section.__doc__ or "").strip()


def _keys(section: type[Section], common: type[Section] | None = None) -> str:
    """A table of the keys of a section, as its JSON schema has them, without those that it only has in common."""
    schema = section.model_json_schema()
    known = common.model_fields if common else {}
    rows = [
        (f"`{name}`", _words(schema["properties"][name], schema.get("$defs", {})), _default(field), field.description)
        for name, field in section.model_fields.items()
        if name not in known or name == "kind" or _said(field) != _said(known[name])
    ]
    rows.sort(key=lambda row: row[0] != "`kind`")
    return _table(("key", "value", "default", "meaning"), [tuple(cell or "" for cell in row) for row in rows])


def _said(field: FieldInfo) -> tuple[Any, ...]:
    return field.description, field.default


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    value = field.get_default(call_default_factory=True)
    return "" if isinstance(value, BaseModel) else _value(value)


def _value(value: Any) -> str:
    """A value as a campaign file has it: words need no quotes."""
    text = json.dumps(TypeAdapter(Any).dump_python(value, mode="json"), ensure_ascii=False)
    return "`" + QUOTED_WORD.sub(r"\1", text) + "`"


def _words(schema: dict[str, Any], models: dict[str, Any]) -> str:  # noqa: C901, PLR0911 - a row for each
    """What may stand there, in words."""
    match schema:
        case {"const": value}:
            return f"`{value}`"
        case {"enum": values}:
            return " or ".join(f"`{value}`" for value in values)
        case {"anyOf": choices}:
            return ", or ".join(dict.fromkeys(_words(one, models) for one in choices))
        case {"prefixItems": items}:
            return f"[{', '.join(_words(one, models) for one in items)}]"
        case {"type": "array", "items": items}:
            return f"list: {_words(items, models)}"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"mapping to {_words(values, models)}"
        case {"type": "object"}:
            return "mapping"
        case {"type": "boolean"}:
            return "true or false"
        case {"type": "string"}:
            return "text"
        case {"type": "null"}:
            return "null"
        case {"type": "integer" | "number" as name}:
            return f"{'whole number' if name == 'integer' else 'number'} {' and '.join(_bounds(schema))}".strip()
    return "section"


def _bounds(schema: dict[str, Any]) -> Iterator[str]:
    for key, sign in {"exclusiveMinimum": ">", "minimum": "≥", "maximum": "≤"}.items():
        if key in schema:
            yield f"{sign} {schema[key]:g}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)
