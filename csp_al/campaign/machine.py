"""The machine file: where a campaign runs, apart from the science that the campaign file says.

    # ~/.config/csp-al/machines/workstation.yaml, then: csp-al run si8.yaml --machine workstation
    slots: 2
    cores_per_label: 8

`csp-al run` without ``--machine`` takes ``default.yaml`` of that folder where there is one.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError, field_validator

from csp_al.campaign.document import read_document
from csp_al.campaign.errors import CampaignError, Finding, shown
from csp_al.campaign.messages import findings
from csp_al.campaign.section import Count, Section
from csp_al.kinds import ENGINES, BrokenKindError, UnknownKindError, find, names
from csp_al.spelling import did_you_mean

THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Variables of the environment that tell libraries how many threads to use."""

DEFAULT = "default"
DEFAULT_ENGINE = "local"
PARSL = "parsl"  # a key that names its engine as well
CORES = "{cores}"
FOLDER: Final = "folder of the machine file"
"""Key of the context in which sections of machine files are read."""


class Machine(Section):
    """What a machine offers to the calculations of the reference method."""

    engine: str = Field(
        DEFAULT_ENGINE, description="what runs the calculations there; local: processes of this machine"
    )
    slots: Count | None = Field(None, description="labels computed side by side; null: as many as the cores allow")
    cores_per_label: Count = Field(1, description="cores of one label; above 1 its program is started by the launcher")
    launcher: tuple[str, ...] = Field(
        ("mpirun", "-n", CORES), description="what starts a program on several cores; {cores} becomes their number"
    )
    programs: dict[str, str | tuple[str, ...]] = Field(
        default_factory=dict,
        description="where programs are, e.g. {pw.x: /opt/qe/pw.x}, a list with options; others: on PATH",
    )
    pseudo_dir: str | None = Field(
        None, description="folder of pseudopotentials; null: ESPRESSO_PSEUDO, or of VASP VASP_PP_PATH"
    )
    modules: str | None = Field(
        None, description="folder where modules of your own are looked for first; null: that of the campaign file"
    )

    @property
    def longest_evaluation(self) -> float:
        """S that an evaluation may take here."""
        return math.inf

    @field_validator("launcher")
    @classmethod
    def _tells_cores(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not any(CORES in word for word in value):
            msg = f"{CORES} must stand where the number of cores belongs, e.g. [mpirun, -n, '{CORES}']"
            raise ValueError(msg)
        return value

    def command(self, program: str) -> list[str]:
        """The argument list that starts a program on the cores of one label."""
        launcher = self.launcher if self.cores_per_label > 1 else ()
        return [*(word.replace(CORES, str(self.cores_per_label)) for word in launcher), *self.alone(program)]

    def alone(self, program: str) -> list[str]:
        """The argument list that starts a program without the launcher."""
        said = self.programs.get(program, program)
        found, *options = [said] if isinstance(said, str) else said
        if "/" in found:  # it is started in another folder
            found = str(Path(found).expanduser().absolute())
        return [found, *options]


def read_machine(name: str | None) -> Machine:
    """The machine of this name, or of this file; None: the default one.

    Raises ValueError where there is no such file, CampaignError with line and column for what is wrong in it.
    """
    if name is None:
        path = machine_folder() / f"{DEFAULT}.yaml"
        return _read(path) if path.is_file() else Machine()
    path = Path(name) if name.endswith((".yaml", ".yml")) else machine_folder() / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in machine_folder().glob("*.yaml"))
        there = f"there are {', '.join(known)}" if known else "there is none yet"
        raise ValueError(f"machine {name}: no file {path}; in {machine_folder()} {there}")
    return _read(path)


def usable_cores() -> int:
    """Cores that this process may use: of the machine, of its affinity, of its control group."""
    from joblib import cpu_count

    return int(cpu_count())


def cores_of_this_process() -> int:
    """Cores for what this process computes itself: those it may use, or fewer where OMP_NUM_THREADS says so."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return min(usable_cores(), int(threads)) if threads.isdecimal() and int(threads) else usable_cores()


def machine_folder() -> Path:
    """Where the user's machine files are."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "csp-al" / "machines"


def _read(path: Path) -> Machine:
    document = read_document(path)
    value = {} if document.value is None else document.value
    if not isinstance(value, dict):
        allowed = ", ".join(Machine.model_fields)
        raise CampaignError([document.problem(Finding((), f"no keys and values; allowed: {allowed}"))])
    found = _section(value.get("engine", PARSL if PARSL in value else DEFAULT_ENGINE))
    if isinstance(found, Finding):
        raise CampaignError([*document.problems, document.problem(found)])
    try:
        machine = found.model_validate(value, context={FOLDER: path.parent})
    except ValidationError as error:
        problems = (document.problem(finding) for finding in findings(error, value, found))
        raise CampaignError([*document.problems, *problems]) from None
    if document.problems:
        raise CampaignError(document.problems)
    return machine


def _section(engine: Any) -> type[Machine] | Finding:
    """The section of a machine file for this engine, or what is wrong with the engine."""
    try:
        section = find(ENGINES, engine).section if isinstance(engine, str) else None
    except BrokenKindError as error:
        return Finding(("engine",), str(error))
    except UnknownKindError:
        section = None
    if isinstance(section, type) and issubclass(section, Machine):
        return section
    allowed = names(ENGINES)
    hint = did_you_mean(engine, allowed) if isinstance(engine, str) else ""
    return Finding(("engine",), f"unknown engine {shown(engine)}{hint or '; allowed: ' + ', '.join(allowed)}")
