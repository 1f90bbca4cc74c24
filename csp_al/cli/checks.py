"""A campaign, checked against what is installed here."""

from __future__ import annotations

from pathlib import Path

import typer

from csp_al.campaign import Campaign, CampaignError, CampaignFile, open_campaign, species_counts
from csp_al.campaign.errors import Finding, Misfit
from csp_al.campaign.machine import Machine
from csp_al.campaign.references import EspressoReference
from csp_al.interfaces import Reference


def checked_campaign(path: Path, machine: Machine) -> CampaignFile:
    """Read a campaign file and the labels that it names, and ask the reference whether it can run here.

    Doubts go to standard error. Raises CampaignError.
    """
    file = open_campaign(path)
    reference = reference_of(file.campaign, machine, path.parent)
    wrong = [file.problem(("reference", key), message) for key, message in reference.check()]
    if not wrong:
        campaign = file.campaign.model_copy(update={"reference": reference.pinned()})
        wrong = [file.problem(finding.key, finding.message) for finding in _labels(campaign, path.parent)]
    if wrong:
        raise CampaignError(wrong)
    for key, message in reference.warnings():
        typer.echo(f"Warning: {file.problem(('reference', key), message)}", err=True)
    return file


def checked_again(campaign: Campaign, machine: Machine, base: Path) -> Campaign:
    """The campaign of a run directory, if its reference can still run here. Raises ValueError with what lacks."""
    section = campaign.reference
    if isinstance(section, EspressoReference) and not (base / Path(section.pseudo_dir or ".").expanduser()).is_dir():
        # it was seen from a folder that is gone; checksums tell whether another one holds the same
        campaign = campaign.model_copy(update={"reference": section.model_copy(update={"pseudo_dir": None})})
    wrong = reference_of(campaign, machine, base).check()
    if wrong:
        raise ValueError("\n".join(f"{campaign.name}: reference.{key}: {message}" for key, message in wrong))
    return campaign


def for_workers(machine: Machine, campaign: Campaign, base: Path) -> Machine:
    """The machine as workers are told of it: no file name depends on where they are."""
    section = campaign.reference
    folder = Path(machine.pseudo_dir).expanduser() if machine.pseudo_dir else None
    if isinstance(section, EspressoReference) and section.pseudo_dir is not None:
        folder = base / Path(section.pseudo_dir).expanduser()
    return machine.model_copy(update={"pseudo_dir": folder and str(folder.resolve())})


def reference_of(campaign: Campaign, machine: Machine, base: Path) -> Reference:
    """The reference method of a campaign here."""
    from csp_al.reference.references import build_reference

    return build_reference(campaign.reference, list(species_counts(campaign.pool.formula)), machine, base)


def _labels(campaign: Campaign, folder: Path) -> tuple[Finding, ...]:
    """What is wrong with the labels from elsewhere, as far as can be said without the reference method."""
    if not campaign.labels:
        return ()
    from csp_al.loop.label_set import read_labels

    try:
        read_labels(campaign, folder)
    except Misfit as misfit:
        return misfit.findings
    return ()
