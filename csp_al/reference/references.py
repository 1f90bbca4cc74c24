"""From the reference section of a campaign file to a reference method."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import suppress

from csp_al.campaign.models import AnyReference, GpawReference
from csp_al.interfaces import Reference
from csp_al.reference.ase_calculator import AseCalculator, find_callable
from csp_al.reference.gpaw import Gpaw


def build_reference(section: AnyReference, species: Sequence[str] = ()) -> Reference:
    """The reference method that a section describes; nothing is imported or checked until it is asked for.

    The species (chemical symbols) tell `check` which datasets a campaign needs.
    """
    if isinstance(section, GpawReference):
        return Gpaw(section, tuple(species))
    return AseCalculator(section)


def import_reference(section: AnyReference) -> None:
    """Import what the reference will need, so that processes forked from this one start at once.

    What cannot be imported is left to the calculation, which says so.
    """
    if isinstance(section, GpawReference):
        with suppress(ImportError):
            for module in ("gpaw.new.ase_interface", "gpaw.new.pw.builder"):
                importlib.import_module(module)
    else:
        with suppress(ValueError):
            find_callable(section.calculator)
