"""What a run directory could do to whoever continues it, and that it does not unless they say so.

To look at a run directory (`status`, `results`, `export`, `open_run`) runs nothing of it. To continue one with its own
settings may: a calculator, or a kind that is not ours, is code that its author chose.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from csp_al.campaign.models import Campaign
from csp_al.importing import is_looking
from csp_al.kinds import POTENTIALS, REFERENCES, SOURCES, STRATEGIES, is_ours
from csp_al.reference.references import places, reference_kind
from csp_al.store.links import UntrustedError, is_within
from csp_al.store.run_directory import SETTINGS, folder_of_campaign
from csp_al.store.stages import is_published

PLACE: Final = {
    REFERENCES: "reference.kind",
    SOURCES: "pool.sources.kind",
    POTENTIALS: "potential.kind",
    STRATEGIES: "select.strategy",
}
"""Where a campaign file names a kind."""

NOTHING_LOST: Final = "Nothing is lost. "


def refuse_code(campaign: Campaign, run: Path) -> None:
    """Raise UntrustedError if continuing the run with its own copy of the settings follows its author too far.

    That is where it could run the author's code, or would open files outside of the run directory.
    """
    if found := _foreign(campaign, run):
        msg = (
            f"{run}: its copy of the campaign file has {found}. Continue with the campaign file itself (csp-al run "
            f"FILE), or, if you know what made this directory, with: csp-al resume {run} --trust"
        )
        raise UntrustedError(msg)


def refuse_unknown_kinds(campaign: Campaign, path: Path) -> None:
    """Raise UntrustedError if a campaign file names a kind that was not imported, as nobody asked for that.

    What a strategy chooses changes no plan.
    """
    for group, name in campaign.kinds:
        if is_looking() and group != STRATEGIES and "." in name and not is_ours(group, name):
            raise UntrustedError(f"{path}: {PLACE[group]}: {name} is code of yours, and is not run here; add --trust")


def how_to_continue(campaign: Campaign, run: Path) -> str:
    """What a driver that ended before its time tells its user."""
    if not (run / SETTINGS).exists():
        return "Nothing has begun yet"
    return f"{NOTHING_LOST}Continue with: csp-al resume {run}{' --trust' * bool(_foreign(campaign, run))}"


def _foreign(campaign: Campaign, run: Path) -> str:
    """What only its author can vouch for, in words; empty if there is nothing."""
    if found := _code(campaign):
        return f"{found}, which this command would run"
    base, home = folder_of_campaign(run), run.resolve()
    outside = (f"{key}: {name}" for key, name in _opened(campaign, run) if not is_within(base / name, home))
    return f"{found}, which this command would open" if (found := next(outside, "")) else ""


def _opened(campaign: Campaign, run: Path) -> Iterator[tuple[str, Path]]:
    """Files and folders that the campaign names and that a driver would still read, with their keys."""
    if not is_published(run / "pool"):
        yield from (("pool.seeds", Path(name)) for pool in campaign.pools for name in pool.seeds)
    if not is_published(run / "elsewhere"):
        yield from (("labels", Path(file.path)) for file in campaign.labels)
    named = {key: getattr(campaign.reference, key) for key in places(campaign.reference)}
    yield from ((f"reference.{key}", Path(name).expanduser()) for key, name in named.items() if name is not None)


def _code(campaign: Campaign) -> str:
    """The first key whose value is code that its author chose, as is every kind that is not ours; empty if none is."""
    for group, name in campaign.kinds:
        if not is_ours(group, name):
            return f"{PLACE[group]}: {name}"
    if campaign.foundation is not None and not campaign.foundation.is_ours:
        return f"foundation.model: {campaign.foundation.model}"
    return reference_kind(campaign.reference).foreign_code(campaign.reference)
