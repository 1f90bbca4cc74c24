"""The engine that a machine file names.

check_machine(machine)
engine = start_engine(run / "tasks", machine)

A new one is a file with a class that keeps `csp_al.interfaces.Engine` and its `csp_al.interfaces.EngineKind`; ours is
listed in `csp_al.kinds`, one of a package is found by the entry point of its name in the group csp_al.engines.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from csp_al.campaign.machine import Machine
from csp_al.interfaces import Engine, EngineKind, Line
from csp_al.kinds import ENGINES, find


def start_engine(root: Path, machine: Machine) -> Engine:
    """The engine of this machine, for the tasks in this folder; it runs nothing before something is submitted."""
    return _kind(machine).start(root, machine)


def start_stage_engine(root: Path, machine: Machine) -> tuple[Engine, str] | None:
    """The engine for stages of the loop, whose tasks are in this folder, and its device; None: the driver does them."""
    start = _kind(machine).start_stages
    return None if start is None else start(root, machine)


def check_machine(machine: Machine) -> int:
    """Labels that are computed side by side. Raises ValueError where the machine has not what its file asks for."""
    return _kind(machine).check(machine)


def examine_machine(machine: Machine) -> Iterable[Line] | None:
    """What is found where the calculations will run, each line as soon as it is known; None: they run here.

    Raises ValueError where the machine has not what its file asks for.
    """
    kind = _kind(machine)
    kind.check(machine)
    return kind.examine(machine) if kind.examine is not None else None


def _kind(machine: Machine) -> EngineKind:
    kind: EngineKind = find(ENGINES, machine.engine)
    return kind
