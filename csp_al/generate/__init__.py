"""Candidates: random cells, symmetric cells, seeds from files."""
