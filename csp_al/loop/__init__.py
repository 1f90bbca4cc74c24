"""The active-learning loop: the algorithm, and the stages that it is made of."""

from csp_al.loop.search import search

__all__ = ["search"]
