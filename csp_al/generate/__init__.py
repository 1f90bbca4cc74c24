"""Candidates: random cells, symmetric cells, seeds from files."""

from csp_al.generate.pool import generate_candidates, generate_pool, is_searched

__all__ = ["generate_candidates", "generate_pool", "is_searched"]
