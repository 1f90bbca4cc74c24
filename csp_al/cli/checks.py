"""A campaign file, checked against what is installed here."""

from __future__ import annotations

from pathlib import Path

from csp_al.campaign import CampaignError, CampaignFile, open_campaign, species_counts


def checked_campaign(path: Path) -> CampaignFile:
    """Read a campaign file and ask the reference whether it can run here. Raises CampaignError."""
    from csp_al.reference.references import build_reference

    file = open_campaign(path)
    reference = build_reference(file.campaign.reference, list(species_counts(file.campaign.pool.formula)))
    problems = [file.problem(("reference", key), message) for key, message in reference.check()]
    if problems:
        raise CampaignError(problems)
    return file
