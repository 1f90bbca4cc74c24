"""The campaign file: models, defaults, units, errors with line numbers, JSON schema."""

from csp_al.campaign.models import Campaign

__all__ = ["Campaign"]
