"""Kinds of potentials, by their names in the campaign file."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Final

from csp_al.interfaces import PotentialKind

KINDS: Final = {name: f"csp_al.potential.{name}:KIND" for name in ("schnet", "painn", "so3net")}


def potential_kind(name: str) -> PotentialKind:
    """The kind of this name. Raises KeyError for a name that is none."""
    kind: PotentialKind = resolve_name(KINDS[name])
    return kind
