"""What a driver does with a run directory before it goes on: it sees that all is as it was left, and whose it is.

    with locked(run):
        campaign = open_to_drive(run, campaign, source, programs, mend=False, tell=print)

Nobody else may have the run directory meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from csp_al.campaign.document import read_document
from csp_al.campaign.models import Campaign
from csp_al.engine.tasks import tidy
from csp_al.files import forget_temporaries, read_as_written, upgraded
from csp_al.kinds import POTENTIALS, is_ours
from csp_al.store.changes import ChangedError, accept, keep_defaults
from csp_al.store.lock import LOCK
from csp_al.store.repair import refuse_damage, repair
from csp_al.store.run_directory import PROVENANCE, SETTINGS, log, prepare, published_stages, read_campaign_of, seed_of

TRACES: Final = (SETTINGS, PROVENANCE, "campaign.yaml", "log.jsonl", "tasks")
"""What a run directory has one of from its first moments on."""

TRAINED: Final = "potential.json"
"""What tells, beside weights of ours, how they were trained."""


def open_to_drive(
    run: Path,
    campaign: Campaign,
    source: Path | None,
    programs: dict[str, str],
    *,
    mend: bool,
    tell: Callable[[str], None],
) -> Campaign:
    """Make the run directory, or check that it is whole and this campaign's; ``mend`` sets aside what is damaged.

    Returns the campaign to drive: where the run has begun, it has the defaults that the run began with.

    ``source`` is the campaign file, None where the run directory goes on with its own copy; ``programs`` are the
    versions of what the reference runs. Raises DamagedError and ChangedError.
    """
    forget_temporaries(run)
    tidy(run / "tasks")
    begun = (run / SETTINGS).exists() or bool(published_stages(run))
    if begun and mend:
        for words in repair(run) or ["nothing is damaged"]:
            tell(f"Repair: {words}")
    elif begun:
        refuse_damage(run)
    if (run / SETTINGS).exists():
        campaign, changed = _continue(run, campaign, tell)
        if not changed and (run / PROVENANCE).exists():
            return campaign
    elif begun and source is not None:
        _refuse_another_file(run, campaign, source)
        campaign = _as_it_trained(run, campaign, tell)
    prepare(run, campaign, source, programs)
    return campaign


def refuse_other_folder(run: Path) -> None:
    """Raise ValueError for a folder that holds other things than a run, and for a file."""
    if run.exists() and not run.is_dir():
        raise ValueError(f"{run} is a file, where a run directory is to be; give another --directory")
    there = sorted(path.name for path in run.glob("[!.]*"))  # desktops, file servers and killed writers leave dots
    if there and not any(name in TRACES or name.startswith(LOCK) for name in there):
        some = ", ".join(there[:3]) + (", ..." if len(there) > 3 else "")
        raise ValueError(f"{run} holds other things than a run ({some}); give a --directory that is new or empty")


def _continue(run: Path, campaign: Campaign, tell: Callable[[str], None]) -> tuple[Campaign, bool]:
    """The campaign with the defaults that its run began with, and whether it changed. Raises ChangedError."""
    before = read_campaign_of(run, trust=campaign.kinds)  # what is to be driven is trusted already
    campaign, kept = _keep(run, before, campaign, tell)
    changes = accept(run, before, campaign)
    if kept:  # a run that refuses to go on stays as it is, and so does the last word of its log
        log(run, "defaults kept", kept=kept)
    for words in changes:
        tell(f"Changed: {words}")
    if changes:
        log(run, "campaign changed", changes=changes)
    return campaign, bool(changes)


def _keep(run: Path, before: Campaign, campaign: Campaign, tell: Callable[[str], None]) -> tuple[Campaign, list[str]]:
    """The campaign with the defaults that its run began with, and these in words."""
    campaign, kept = keep_defaults(run, before, campaign)
    for words in kept:
        tell(f"Kept: {words}")
    return campaign, kept


def _as_it_trained(run: Path, campaign: Campaign, tell: Callable[[str], None]) -> Campaign:
    """The campaign of a run whose settings are lost, with the defaults of training that its last weights tell."""
    potential = campaign.potential
    trained = [folder for _, name, folder in published_stages(run) if name == "train"]
    if not trained or not is_ours(POTENTIALS, potential.kind):
        return campaign
    path = trained[-1] / TRAINED
    version, written = read_as_written(path, "weights")
    about, _ = upgraded(path, "weights", version, (written, {}))
    before = campaign.model_copy(update={"potential": type(potential).recall(about["potential"])})
    return _keep(run, before, campaign, tell)[0]


def _refuse_another_file(run: Path, campaign: Campaign, source: Path) -> None:
    """Of a run whose settings are lost, the copy of its campaign file tells what they were. Raises ChangedError."""
    copy = run / "campaign.yaml"
    if not copy.is_file() or read_document(copy).value != read_document(source).value:
        msg = (
            f"{run}: its settings are lost, and {source} is not the campaign file that it began with ({copy}); give "
            "that one, or another name"
        )
        raise ChangedError(msg)
    if (seed := seed_of(run)) not in (None, campaign.seed):
        raise ChangedError(f"{run}: its settings are lost, and it began with another seed; give --seed {seed}")
