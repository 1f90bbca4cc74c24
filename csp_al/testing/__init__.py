"""Contract tests for whoever writes a kind of their own: each raises AssertionError with what is not kept."""

from csp_al.testing.potential import check_potential, labels_by

__all__ = ["check_potential", "labels_by"]
