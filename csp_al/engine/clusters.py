"""The engines of clusters: what a machine file says, as jobs of its scheduler and pilots in them.

engine = SLURM.start(run / "tasks", read_machine("mycluster"))
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from csp_al.campaign.clusters import TO_END, WALLTIME, Cluster, OwnParsl, Queue, Slurm
from csp_al.campaign.machine import Machine
from csp_al.engine.exchange import Terms
from csp_al.engine.fleet import Crew
from csp_al.engine.jobs import Jobs, in_one_line
from csp_al.engine.pilots import PilotEngine
from csp_al.engine.probe import probe
from csp_al.engine.providers import ANSWERS, own_provider, provider_of, slurm_options
from csp_al.interfaces import EngineKind, Line

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_MEMORY: Final = ("tmpfs", "ramfs")
"""File systems that no other node sees."""
PROGRAMS: Final = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub", "sge": "qsub"}
QUEUES: Final = {"pbs": ("qstat", "-Q"), "lsf": ("bqueues",), "sge": ("qconf", "-sq")}
"""What knows a queue, and says so where there is none."""


def hire(machine: Cluster | OwnParsl) -> tuple[Jobs, Crew]:
    """The jobs of a cluster, and the pilots that are to be in them."""
    if isinstance(machine, OwnParsl):
        return _hire_own(machine)
    return _hire(machine)


def hire_for_stages(machine: Slurm | Queue) -> tuple[Jobs, Crew, Cluster] | None:
    """The same for the job that does stages of the loop, and the machine as it is there; None: the driver does them."""
    if machine.potentials is None:
        return None
    there = machine.for_potentials(machine.potentials)
    jobs, crew = _hire(there, machine.potentials.gpus)
    device = "cuda" if machine.potentials.gpus else "cpu"
    return jobs, replace(crew, terms=replace(crew.terms, stages=device)), there


def _hire(machine: Cluster, gpus: int = 0) -> tuple[Jobs, Crew]:
    terms = Terms(_plain(machine), machine.labels_at_once, machine.cores, machine.longest_evaluation)
    crew = Crew(terms, machine.blocks[0], machine.blocks[1], machine.cores_per_node, _python(machine))
    return Jobs(provider_of(machine, gpus)), crew


def _hire_own(machine: OwnParsl) -> tuple[Jobs, Crew]:
    provider, slots = own_provider(machine)
    found = WALLTIME.fullmatch(str(getattr(provider, "walltime", "")))
    seconds = 3600 * int(found[1]) + 60 * int(found[2]) - TO_END if found else None
    terms = Terms(_plain(machine), slots, slots * machine.cores_per_label, seconds)
    cores = -(-terms.cores // int(provider.nodes_per_block))
    return Jobs(provider), Crew(terms, int(provider.min_blocks), int(provider.max_blocks), cores, _python(machine))


def _start_stages(root: Path, machine: Slurm | Queue) -> tuple[PilotEngine, str] | None:
    """The engine of the job that does stages, and their device; it never is too late to begin one."""
    if (found := hire_for_stages(machine)) is None:
        return None
    jobs, crew, _ = found
    return PilotEngine(root, jobs, crew, lasts=lambda *_: 0.0), crew.terms.stages


def _start(root: Path, machine: Cluster | OwnParsl) -> PilotEngine:
    """The engine of a cluster. Raises ValueError where no node sees the folder of the tasks, or no shell its name."""
    if (place := str(root.absolute())) != shlex.quote(place):
        raise ValueError(f"{place}: Parsl takes no folder of jobs whose name has spaces and the like; choose another")
    if isinstance(machine, Cluster) and (kind := _file_system(root)) in IN_MEMORY:
        raise ValueError(f"{root} is in the memory of this machine ({kind}): choose a folder that the nodes share")
    return PilotEngine(root, *hire(machine))


def _check(machine: Cluster | OwnParsl) -> int:
    """Labels side by side. Raises ValueError with the scheduler's own words where it would take no such job."""
    if importlib.util.find_spec("parsl") is None:
        raise ValueError("jobs of a cluster need Parsl: pip install 'csp_al[cluster]'")
    if isinstance(machine, Slurm | Queue):
        _check_scheduler(machine)
        if machine.potentials is not None:
            _check_scheduler(machine.for_potentials(machine.potentials), machine.potentials.gpus, "potentials: ")
    _, crew = hire(machine)
    return crew.terms.slots * crew.most


def _check_scheduler(machine: Slurm | Queue, gpus: int = 0, where: str = "") -> None:
    if shutil.which(program := PROGRAMS[machine.engine]) is None:
        raise ValueError(f"engine: {machine.engine}: {program} is not on PATH; run this where jobs can be submitted")
    if isinstance(machine, Slurm):
        keys = f"{where}partition, account, options{', gpus' if gpus else ''}"
        _ask([program, "--test-only", *slurm_options(machine, gpus), "--wrap", "true"], keys)
    elif machine.queue:
        _ask([*QUEUES[machine.engine], machine.queue], f"{where}queue: {machine.queue}")
    if machine.engine == "sge" and machine.cores > 1 and not any("-pe " in option for option in machine.options):
        raise ValueError(
            f"{where}options: several cores need a parallel environment, e.g. options: [-pe smp {machine.cores}]"
        )


def _examine(machine: Cluster | OwnParsl) -> Iterator[Line]:
    """What a job finds, which is submitted for that."""
    yield from probe(*hire(machine), machine)
    if isinstance(machine, Slurm | Queue) and (found := hire_for_stages(machine)):
        for ok, what, remedy in probe(*found):
            yield ok, f"potentials: {what}", remedy


def _python(machine: Machine) -> list[str]:
    """The Python of a job: ``programs: {python: ...}`` of the machine file, or this one."""
    return machine.alone("python") if "python" in machine.programs else [sys.executable]


def _plain(machine: Machine) -> dict[str, Any]:
    """What workers need to know of a machine, as JSON: the keys that all of them have."""
    return machine.model_dump(mode="json", include=set(Machine.model_fields) - {"engine", "slots"})


def _ask(command: Sequence[str], keys: str) -> None:
    """Raise ValueError with what a scheduler has to say against keys of the machine file."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWERS)
    except FileNotFoundError:  # another one of the same family may have no such program
        return
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{command[0]} does not answer within {ANSWERS} s; try again later") from error
    if found.returncode != 0:
        raise ValueError(f"machine file ({keys}): {in_one_line(found.stderr) or in_one_line(found.stdout)}")


def _file_system(folder: Path) -> str:
    """What kind of file system a folder is on, or will be."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()).resolve()
    mounted = {Path(one.mountpoint): one.fstype for one in psutil.disk_partitions(all=True)}
    return next((mounted[path] for path in (place, *place.parents) if path in mounted), "")


SLURM: Final = EngineKind(Slurm, _start, _check, _examine, _start_stages)
PBS = LSF = SGE = EngineKind(Queue, _start, _check, _examine, _start_stages)
PARSL: Final = EngineKind(OwnParsl, _start, _check, _examine)
