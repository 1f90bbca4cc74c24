"""Candidates: random cells, symmetric cells, seeds from files."""

from csp_al.generate.constraints import Constraints, conflicts, resolve
from csp_al.generate.pool import generate_pool

__all__ = ["Constraints", "conflicts", "generate_pool", "resolve"]
