"""From the reference section of a campaign file to a reference method."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from csp_al.campaign.machine import Machine
from csp_al.campaign.references import AnyReference, EspressoReference, GpawReference
from csp_al.interfaces import Reference
from csp_al.reference.ase_calculator import AseCalculator, find_callable
from csp_al.reference.gpaw import Gpaw


def build_reference(
    section: AnyReference, species: Sequence[str] = (), machine: Machine | None = None, base: Path = Path()
) -> Reference:
    """The reference method that a section describes; nothing is imported or checked until it is asked for.

    The species (chemical symbols) tell `check` and `pinned` which datasets a campaign needs, the machine where programs
    are; ``base`` is the folder that file names in the section refer to.
    """
    machine = machine or Machine()
    if isinstance(section, GpawReference):
        return Gpaw(section, tuple(species), machine)
    if isinstance(section, EspressoReference):
        from csp_al.reference.espresso import Espresso

        return Espresso(section, tuple(species), machine, base)
    return AseCalculator(section)


def import_reference(section: AnyReference) -> None:
    """Import what the reference will need, so that processes forked from this one start at once.

    What cannot be imported is left to the calculation, which says so.
    """
    if isinstance(section, GpawReference):
        with suppress(ImportError):
            for module in ("gpaw.new.ase_interface", "gpaw.new.pw.builder"):
                importlib.import_module(module)
    elif isinstance(section, EspressoReference):
        importlib.import_module("csp_al.reference.espresso")
    else:
        with suppress(ValueError):
            find_callable(section.calculator)
