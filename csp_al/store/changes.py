"""A campaign file that changed since the run began: which changes keep what is there, and what must be done again.

    now, kept = keep_defaults(run, before, campaign)
    accept(run, before, now)

Where the defaults of csp_al are what changed, the run keeps those that it began with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic.fields import FieldInfo

from csp_al.campaign.document import read_document
from csp_al.campaign.errors import CampaignError
from csp_al.campaign.models import Campaign
from csp_al.campaign.open_section import Kept, marker_of
from csp_al.campaign.references import ReferenceSection
from csp_al.campaign.section import Section
from csp_al.engine.retry import EVERY, is_due
from csp_al.engine.tasks import is_id, read_result
from csp_al.files import read_json
from csp_al.kinds import is_ours
from csp_al.reference.references import places
from csp_al.store.layout import TASKS, VERDICT
from csp_al.store.records import ANYTHING
from csp_al.store.repair import set_aside
from csp_al.store.run_directory import LAST as WINNERS
from csp_al.store.run_directory import cycle_folder, cycles, published_stages
from csp_al.store.stages import is_published
from csp_al.structures import Status

SUPERSEDED: Final = "superseded"
"""Folder of the run directory for what another campaign file decided otherwise."""

STOPPING: Final = (
    "stop.max_cycles", "stop.patience", "stop.max_error", "stop.max_unseen", "budget.labels", "budget.hours",
)  # fmt: skip
"""Keys that say when to stop: the last verdict may change with them."""

FINISHING: Final = ("finish.crystals", "finish.fmax", "finish.max_steps")
"""Keys of the final relaxations."""

FREE: Final = ("reference.time_limit", "reference.max_fail_fraction", "reference.remedies")
"""Keys that change no result: when to give up."""


S = TypeVar("S", bound=Section)


class ChangedError(Exception):
    """The campaign file is not the one that the run directory was made with; the message shows what differs."""


def differences(before: Any, now: Any) -> dict[str, str]:
    """What differs between two sections as JSON, by key: what it was then, what it is now."""
    return {key: f"{then!r} then, {value!r} now" for key, then, value in _differing(before, now)}


def _differing(before: Any, now: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each key that differs, with both of its values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in (*before, *(key for key in now if key not in before)):
            yield from _differing(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))
    elif before != now:
        yield where, before, now


def keep_defaults(run: Path, before: Campaign, now: Campaign) -> tuple[Campaign, list[str]]:
    """The campaign of a file, with the defaults that its run began with; those that are others now, in words.

    A key that the run's own copy of the file gave, and the file gives no longer, goes back to the default of today.
    """
    given: Any = None
    with suppress(CampaignError, OSError):
        given = read_document(run / "campaign.yaml").value
    campaign = _kept(before, now, given)
    found = _differing(as_json(campaign), as_json(now))
    return campaign, [f"{key} stays {old!r}, as this run began (the default is {new!r} now)" for key, old, new in found]


def _kept(before: S, now: S, given: Any, *, ours: bool = True) -> S:
    """The section ``before`` with the keys that ``now`` was given, or that were ``given`` before.

    What may be code of the author of a run directory is never kept; ``ours``: whether the kind of the section is.
    """
    said = given if isinstance(given, Mapping) else {}
    aside = places(now) if isinstance(now, ReferenceSection) else ()
    taken = {}
    for key, field in type(now).model_fields.items():
        old, new = getattr(before, key), getattr(now, key)
        if isinstance(old, Section) and type(old) is type(new):
            taken[key] = _kept(old, new, said.get(key), ours=ours and _is_of_ours(field, new))
        elif _is_chosen(key, now, said) or key in aside or not _is_default(old, new, ours=ours):
            taken[key] = new
    return before.model_copy(update=taken)


def _is_chosen(key: str, now: Section, said: Mapping[str, Any]) -> bool:
    """Whether the file gives a key, or gave it before; null now and then leaves it to csp_al, and chooses nothing."""
    if key in said and said[key] is None and getattr(now, key) is None:
        return False
    return key in now.model_fields_set or key in said


def _is_of_ours(field: FieldInfo, section: Section) -> bool:
    mark = marker_of(field)
    return mark is None or is_ours(mark.group, getattr(section, "kind", ""))


def _is_default(old: Any, new: Any, *, ours: bool) -> bool:
    """Whether what a run directory holds was a default of csp_al, and nothing that somebody may have put there.

    Nobody gives code as a number. A text may be an import path in the section of a kind that is not ours, and one with
    a point anywhere; where the default is empty, whatever is there was given; and a section of a kind that was not
    imported is its author's.
    """
    if isinstance(old, Section):
        return isinstance(new, Section) and not isinstance(old, Kept)
    is_path = isinstance(old, str) and "." in old
    return new not in ({}, ()) and ((ours and not is_path) or isinstance(old, int | float | None))


def as_json(campaign: Campaign) -> dict[str, Any]:
    """A campaign as JSON, but for where the reference's files are here."""
    return campaign.model_dump(mode="json", exclude={"reference": set(places(campaign.reference))})


def accept(run: Path, before: Campaign, now: Campaign) -> list[str]:
    """Make a run directory ready for a changed campaign file; the changes, in words. Raises ChangedError.

    Where the change may let the search go on, its last verdict and the winners are set aside.
    """
    found = differences(as_json(before), as_json(now))
    refused = {key: words for key, words in found.items() if _root(key) is None}
    if "stop.max_cycles" in found and now.stop.max_cycles < (decided := _decided(run)):
        refused["stop.max_cycles"] = f"{now.stop.max_cycles}, but {decided} cycles have been begun or decided on"
    if before.unlabelled != now.unlabelled:
        refused["budget.labels"] = f"{found['budget.labels']}; a search without labels is another one"
    if refused:
        lines = "\n".join(f"  {key}: {words}" for key, words in refused.items())
        msg = (
            f"{run} was made with another campaign file:\n{lines}\n"
            "Take these changes back, or give the new campaign another name (or --directory); with "
            f"'labels: [{run}]' it begins with the labels of this one, if the reference is the same."
        )
        raise ChangedError(msg)
    _reopen(run, {root for key in found if (root := _root(key))})
    return [f"{key}: {words}" for key, words in found.items()]


def refuse_retry(run: Path, retry: Collection[str]) -> None:
    """Raise ValueError for the id of a calculation that cannot be tried again."""
    root = run / "tasks"
    for name in [name for name in retry if name != EVERY]:
        result = read_result(root, name) if is_id(name) else None
        if result is None or result.status is Status.DONE:
            raise ValueError(f"--retry {name}: no calculation of this id has failed under {root}; {EVERY!r} means all")
        for _, _, folder in published_stages(run):
            if folder.name != WINNERS and name in _tasks_of(folder):
                stage = folder.relative_to(run)
                raise ValueError(f"--retry {name}: it belongs to {stage}, from which the search has gone on already")


def try_winners_again(run: Path, retry: Collection[str]) -> int:
    """Set the winners aside where final relaxations failed that are to be tried again; how many."""
    winners, root = run / WINNERS, run / "tasks"
    if not is_published(winners):
        return 0
    results = [result for name in _tasks_of(winners) if (result := read_result(root, name)) is not None]
    if due := sum(is_due(result, retry) for result in results):
        set_aside(run, SUPERSEDED, [winners])
    return due


def _tasks_of(folder: Path) -> list[str]:
    path = folder / TASKS
    names = read_json(path, ANYTHING) if path.is_file() else []
    return [name for name in names if is_id(name)] if isinstance(names, list) else []


def _root(key: str) -> str | None:
    """The harmless key that this one is, or lies below; None for a key that is not harmless."""
    return next((root for root in (*STOPPING, *FINISHING, *FREE) if f"{key}.".startswith(f"{root}.")), None)


def _decided(run: Path) -> int:
    """Cycles that have begun, and the one that the last of them has chosen labels for."""
    begun = cycles(run)
    return len(begun) + bool(begun and is_published(cycle_folder(run, begun[-1]) / "select"))


def _reopen(run: Path, changed: set[str]) -> None:
    """Set aside what was decided by keys that are others now."""
    decided = [run / "winners"] if changed & {*STOPPING, *FINISHING} else []
    if begun := cycles(run):
        verdict = cycle_folder(run, begun[-1]) / "verdict"
        if changed & set(STOPPING) and _said_stop(verdict):
            decided.insert(0, verdict)
    set_aside(run, SUPERSEDED, [folder for folder in decided if is_published(folder)])


def _said_stop(verdict: Path) -> bool:
    return (verdict / VERDICT.name).is_file() and VERDICT.read(verdict).stop
