"""The campaign file: models, defaults, units, errors with line numbers, JSON schema."""

from csp_al.campaign.constraints import Constraints, conflicts, min_distances, resolve
from csp_al.campaign.errors import CampaignError, KeyPath, Location, Problem
from csp_al.campaign.models import (
    Budget,
    Campaign,
    Finish,
    Pool,
    Relax,
    Select,
    Stop,
    species_counts,
    species_pairs,
)
from csp_al.campaign.potentials import PotentialSection
from csp_al.campaign.read import CampaignFile, open_campaign, read_campaign
from csp_al.campaign.references import AnyReference, ReferenceSection
from csp_al.campaign.section import Section
from csp_al.campaign.sources import SourceSection
from csp_al.campaign.template import campaign_schema, campaign_template

__all__ = [
    "AnyReference", "Budget", "Campaign", "CampaignError", "CampaignFile", "Constraints", "Finish", "KeyPath",
    "Location", "Pool", "PotentialSection", "Problem", "ReferenceSection", "Relax", "Section", "Select",
    "SourceSection", "Stop", "campaign_schema", "campaign_template", "conflicts", "min_distances", "open_campaign",
    "read_campaign", "resolve", "species_counts", "species_pairs",
]  # fmt: skip
