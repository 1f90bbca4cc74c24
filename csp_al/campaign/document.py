"""A YAML file as plain values, with the place of every key and value.

Only what a campaign file needs is read: mappings, lists and scalars of the YAML 1.2 core schema. Tags, anchors and
aliases are errors, so that no file can name a Python object or grow while it is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, StringMark, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from csp_al.campaign.errors import CampaignError, Finding, KeyPath, Location, Problem, shown
from csp_al.spelling import did_you_mean

MAX_BYTES = 2**20
MAX_DEPTH = 20
MAX_VALUES = 20_000

# YAML 1.2.2, section 10.3.2, core schema
_NULL = re.compile(r"null|Null|NULL|~|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_DIGITS: Final = 4000  # Python refuses to read longer integers

_PLAINER = {  # what the YAML parser says, and what a person should look at
    "found character '\\t'": "a tab; indent with spaces",
    "mapping values are not allowed": "a ':' cannot stand here; look at the indentation, or quote the text",
    "could not find expected ':'": "a key without its ':'; write `key: value`",
    "expected ',' or ']'": "the list is not closed; a ',' or ']' is missing before this",
    "expected ',' or '}'": "the braces are not closed; a ',' or '}' is missing before this",
    "expected <block end>": "this does not line up with the keys above; look at the indentation",
    "while scanning a quoted scalar": "the quotes are not closed",
    "expected '<document start>'": "the value has ended, and more follows; look at the quotes and the indentation",
    "cannot start any token": "text that begins with this character must be quoted",
}

Mark = tuple[int, int]


@dataclass
class Document:
    """The value of a file, where its parts stand, and the problems that did not keep the rest from being read."""

    path: Path
    text: str
    value: Any = None
    keys: dict[KeyPath, Mark] = field(default_factory=dict)
    values: dict[KeyPath, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unread: set[KeyPath] = field(default_factory=set)
    """Keys whose values stand for nothing, because a problem was found in reading them."""

    @cached_property
    def lines(self) -> list[str]:
        """The lines as the parser counts them."""
        return _lines(self.text)

    def locate(self, key: KeyPath, *, at_key: bool = False) -> Location:
        """Where the value of a key stands, or the key; a key that is not there: the section that lacks it."""
        mark = (not at_key and self.values.get(key)) or self.keys.get(key)
        parent = key
        while mark is None and parent:
            parent = parent[:-1]
            mark = self.keys.get(parent) or self.values.get(parent)
        return self.at(mark or (0, 0))

    def at(self, mark: Mark) -> Location:
        """The location of a line and column that count from 0."""
        line, column = mark
        source = self.lines[line] if line < len(self.lines) else ""
        return Location(self.path, line + 1, column + 1, source)

    def problem(self, finding: Finding) -> Problem:
        """The finding in this file."""
        return Problem(self.locate(finding.key, at_key=finding.at_key), finding.key, finding.message)


def read_document(path: Path) -> Document:
    """Read a YAML file. Raises CampaignError if it is missing, too large, not UTF-8, or no YAML."""
    text = _text(path)
    document = Document(path, text)
    try:
        document.value = _Reader(document).document()
    except _StopReading as stop:
        problem = Problem(document.at(stop.mark), (), str(stop))
        raise CampaignError([*document.problems, problem]) from None
    except YAMLError as error:
        raise CampaignError([*document.problems, _syntax_problem(document, error)]) from error
    return document


class _StopReading(Exception):  # noqa: N818 - leaves the recursion
    def __init__(self, mark: Mark, message: str) -> None:
        self.mark = mark
        super().__init__(message)


class _Reader:
    """Builds values from the parser's events, so that limits hold while the file is read and not after."""

    def __init__(self, document: Document) -> None:
        self.found = document
        self.events: Iterator[Event] = iter(YAML(typ="safe", pure=True).parse(document.text))
        self.count = 0

    def document(self) -> Any:
        value = None
        for documents, event in enumerate(e for e in self.events if isinstance(e, DocumentStartEvent)):
            if documents:
                raise _StopReading(_mark(event), "a second document begins; a campaign file is one")
            value = self.value(next(self.events), ())
        return value

    def value(self, event: Event, key: KeyPath) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            raise _StopReading(_mark(event), f"more than {MAX_VALUES} values; this is no campaign file")
        if len(key) > MAX_DEPTH:
            raise _StopReading(_mark(event), f"nested more than {MAX_DEPTH} levels deep; this is no campaign file")
        if not _is_empty(event):
            self.found.values[key] = _mark(event)
        self.refuse_magic(event, key)
        match event:
            case MappingStartEvent():
                return self.mapping(key)
            case SequenceStartEvent():
                return [self.value(item, (*key, row)) for row, item in enumerate(self.until_end())]
            case ScalarEvent():
                return _scalar(event)
        return None

    def mapping(self, key: KeyPath) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        for event in self.until_end():
            name = self.name(event, key)
            mark = _mark(event)
            place = (*key, name)
            if name in values:
                first = self.found.keys[place][0] + 1
                self.report(mark, place, f"the key is there already, in line {first}; remove one of them")
                self.skip(place)
            else:
                self.found.keys[place] = mark
                values[name] = self.value(next(self.events), place)
        return values

    def name(self, event: Event, key: KeyPath) -> Any:
        self.refuse_magic(event, key)
        if isinstance(event, ScalarEvent):
            return _scalar(event)
        raise _StopReading(_mark(event), "a key must be a word; look for a stray '?', '[' or '{'")

    def skip(self, key: KeyPath) -> None:
        """Read a value without noting where its parts stand."""
        keys, values = self.found.keys, self.found.values
        self.found.keys, self.found.values = {}, {}
        self.value(next(self.events), key)
        self.found.keys, self.found.values = keys, values

    def until_end(self) -> Iterator[Event]:
        while not isinstance(event := next(self.events), CollectionEndEvent):
            yield event

    def refuse_magic(self, event: Event, key: KeyPath) -> None:
        before = len(self.found.problems)
        if isinstance(event, AliasEvent):
            self.report(_mark(event), key, f"*{shown(event.anchor)}: aliases are not read; write the value out")
        elif isinstance(event, NodeEvent) and event.anchor:
            self.report(_mark(event), key, f"&{shown(event.anchor)}: anchors are not read; remove it")
        tag = getattr(event, "tag", None)
        if tag:
            name = str(tag).replace("tag:yaml.org,2002:", "!!")
            self.report(_mark(event), key, f"{shown(name)}: tags are not read; write the plain value")
        if len(self.found.problems) > before:
            self.found.unread.add(key)

    def report(self, mark: Mark, key: KeyPath, message: str) -> None:
        self.found.problems.append(Problem(self.found.at(mark), key, message))


def _is_empty(event: Event) -> bool:
    """A value that is not there has the place of whatever comes next; better its key's."""
    return isinstance(event, ScalarEvent) and not event.value and not event.style


def _mark(event: Event) -> Mark:
    return event.start_mark.line, event.start_mark.column


def _scalar(event: ScalarEvent) -> Any:
    text: str = event.value
    if event.style or event.tag:  # quoted, or refused already
        return text
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text[0] in "tT"
    if _INT.fullmatch(text) and len(text) < _MAX_DIGITS:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text.replace(".", "", 1)) if text[-1] in "fFnN" else float(text)
    return text


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _file_error(path, f"there is no such file{_nearby(path)}") from None
    except IsADirectoryError:
        raise _file_error(path, f"a folder; name the campaign file in it{_inside(path)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _file_error(path, f"cannot be read: {reason}") from error
    if len(data) > MAX_BYTES:
        raise _file_error(path, f"larger than {MAX_BYTES} bytes; this is no campaign file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        lines = _lines(before)
        document = Document(path, data.decode("utf-8-sig", errors="replace"))
        message = f"byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        raise CampaignError([Problem(document.at((len(lines) - 1, len(lines[-1]))), (), message)]) from error


def _lines(text: str) -> list[str]:
    return re.split(r"\r\n|\r|\n", text)


def _file_error(path: Path, message: str) -> CampaignError:
    return CampaignError([Problem(Location(path), (), message)])


def _nearby(path: Path) -> str:
    folder = path.parent
    files = [file.name for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
    return did_you_mean(path.name, files) or "; `csp-al init` writes one"


def _inside(path: Path) -> str:
    files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    return f", did you mean {files[0]}?" if files else ""


def _syntax_problem(document: Document, error: YAMLError) -> Problem:
    mark, reason = (0, 0), str(error)
    if isinstance(error, ReaderError):
        before = _lines(document.text[: error.position])
        mark, reason = (len(before) - 1, len(before[-1])), "a control character; remove it"
    elif isinstance(error, MarkedYAMLError):
        found: StringMark | None = error.problem_mark or error.context_mark
        mark = (found.line, found.column) if found else mark
        said = " ".join(part for part in (error.problem, error.context) if part)
        reason = next((plain for jargon, plain in _PLAINER.items() if jargon in said), said)
    return Problem(document.at(mark), (), f"no YAML from here on: {reason}")
