"""Candidates: random cells, symmetric cells, seeds from files."""

from csp_al.generate.pool import generate_pool

__all__ = ["generate_pool"]
