"""From a file to a campaign, or to all that is wrong with it, each with its line and column.

    campaign = read_campaign(Path("campaigns/si8-tersoff.yaml"))

Whoever finds something wrong later, when programs are asked, says it at the same place in the file:

    file = open_campaign(path)
    raise file.error(("reference", "calculator"), "no module 'asse', did you mean ase?")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from csp_al.campaign.checks import check
from csp_al.campaign.document import Document, read_document
from csp_al.campaign.errors import CampaignError, Finding, KeyPath, Location, Problem
from csp_al.campaign.messages import findings
from csp_al.campaign.models import Campaign, species_counts
from csp_al.campaign.references import AnyReference
from csp_al.importing import beside


@dataclass(frozen=True)
class CampaignFile:
    """A campaign, and where each of its values stands in its file."""

    path: Path
    campaign: Campaign
    document: Document

    def locate(self, key: KeyPath) -> Location:
        """Where the value of a key stands, e.g. ("reference", "calculator"); a default: its section, or line 1."""
        return self.document.locate(key)

    def problem(self, key: KeyPath, message: str) -> Problem:
        """What is wrong with a value, in words, at its place; several make one `CampaignError`."""
        return self.document.problem(Finding(key, message))

    def error(self, key: KeyPath, message: str) -> CampaignError:
        """One problem as an error to raise."""
        return CampaignError([self.problem(key, message)])


def read_campaign(path: Path) -> Campaign:
    """Read and check a campaign file. Raises CampaignError with everything that is wrong."""
    return open_campaign(path).campaign


def open_campaign(path: Path) -> CampaignFile:
    """Read and check a campaign file, and keep the places of its values. Raises CampaignError as `read_campaign`."""
    with beside(path.parent):
        return _opened(path)


def sound_reference(path: Path, problems: Iterable[Problem]) -> tuple[Document, AnyReference, list[str]] | None:
    """Of a file with these problems its reference without the keys that have one, and the species as far as known.

    None where nothing can be made of the rest.
    """
    wrong = {problem.key[1] for problem in problems if len(problem.key) > 1 and problem.key[0] == "reference"}
    with beside(path.parent), suppress(CampaignError, ValidationError, AttributeError, KeyError, TypeError):
        document = read_document(path)
        given = {key: value for key, value in document.value["reference"].items() if key not in wrong}
        reference = TypeAdapter(AnyReference).validate_python(given)
        species: list[str] = []
        with suppress(ValueError, KeyError, TypeError):
            species = list(species_counts(document.value["pool"]["formula"]))
        return document, reference, species
    return None


def _opened(path: Path) -> CampaignFile:
    document = read_document(path)
    if not isinstance(document.value, dict):
        what = "empty" if document.value is None else "no keys and values"
        finding = Finding((), f"{what}; `csp-al init` writes a campaign file")
        raise CampaignError([*document.problems, document.problem(finding)])
    try:
        campaign = Campaign.model_validate(document.value)
    except ValidationError as error:
        raise CampaignError([*document.problems, *_problems(document, error)]) from None
    problems = [*document.problems, *map(document.problem, _senseless(document))]
    if problems:
        raise CampaignError(problems)
    return CampaignFile(path, campaign, document)


def _problems(document: Document, error: ValidationError) -> Iterator[Problem]:
    """What pydantic and the checks found, except at the keys that could not be read."""
    for finding in (*findings(error, document.value, Campaign), *_senseless(document)):
        if not any(finding.key[:depth] in document.unread for depth in range(1, len(finding.key) + 1)):
            yield document.problem(finding)


def _senseless(document: Document) -> Iterator[Finding]:
    return check(_sound_values(document.value), document.path.parent)


def _sound_values(value: dict[str, Any]) -> dict[str, Any]:
    """The values that are valid in themselves, so that an error in one section does not hide those of the others."""
    sound: dict[str, Any] = {}
    for name, field in Campaign.model_fields.items():
        annotation: Any = Annotated[field.annotation, field]  # with what tells its kinds apart
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        with suppress(ValidationError):
            sound[name] = (
                adapter.validate_python(value[name]) if name in value else field.get_default(call_default_factory=True)
            )
    return sound
