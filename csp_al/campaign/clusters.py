"""What the machine file of a cluster says: which jobs there are, in each of which a pilot computes labels.

engine: slurm
partition: cpu
walltime: 08:00:00
blocks: [0, 8]
cores_per_node: 64
cores_per_label: 16
potentials: {partition: gpu, gpus: 1, cores_per_node: 8}
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from csp_al.campaign.errors import Finding, Misfit
from csp_al.campaign.machine import FOLDER, Machine
from csp_al.campaign.section import Count, Section, Whole

TO_END: Final = 30
"""s before its walltime at which a pilot ends what it runs."""
WALLTIME: Final = re.compile(r"([0-9]+):([0-5][0-9]):00")


def _is_time(value: str) -> str:
    found = WALLTIME.fullmatch(value)
    if found is None or not int(found[1]) + int(found[2]):
        raise ValueError(f"HH:MM:SS in whole minutes is expected, e.g. 08:00:00, not {value}")
    return value


def _are_lines(value: tuple[str, ...]) -> tuple[str, ...]:
    if any(len(line.splitlines()) > 1 for line in value):
        raise ValueError("one line each is expected")
    return value


Walltime = Annotated[str, AfterValidator(_is_time)]
Lines = Annotated[tuple[str, ...], AfterValidator(_are_lines)]


class Potentials(Section):
    """A job that trains and relaxes, one stage at a time; what is null is as in the jobs of labels."""

    gpus: Whole = Field(0, description="GPUs of the job")
    walltime: Walltime | None = Field(None, description="how long it lasts; longer than any one training or relaxation")
    cores_per_node: Count | None = Field(None, description="its cores")
    account: str | None = Field(None, description="what pays for it")
    setup: Lines | None = Field(None, description="lines of bash at its beginning")
    options: Lines | None = Field(None, description="further options of it, a line each")


class SlurmPotentials(Potentials):
    """The same, of Slurm."""

    partition: str | None = Field(None, description="partition of the job")


class QueuePotentials(Potentials):
    """The same, of PBS, LSF or SGE."""

    queue: str | None = Field(None, description="queue of the job")


class Cluster(Machine):
    """Jobs of a scheduler; whatever the scheduler is."""

    slots: Count | None = Field(
        None, description="labels computed side by side in one pilot; null: as many as its cores allow"
    )
    blocks: tuple[Annotated[int, Field(strict=True, ge=0)], Count] = Field(
        (0, 1), description="pilots, each a job: so many are kept, and so many there are at most"
    )
    walltime: Walltime = Field(description="how long a pilot lasts, HH:MM:SS in whole minutes")
    nodes_per_block: Count = Field(1, description="nodes of one pilot; above 1 the launcher must reach all of them")
    cores_per_node: Count = Field(description="cores of a node that a pilot asks for")
    setup: Lines = Field((), description="lines of bash at the beginning of a job, e.g. module load qe/7.3")
    options: Lines = Field((), description="further options of the job, e.g. --mem=60G, a line each")

    @property
    def cores(self) -> int:
        """Cores of one pilot."""
        return self.nodes_per_block * self.cores_per_node

    @property
    def labels_at_once(self) -> int:
        """Those in one pilot."""
        return self.slots or self.cores // self.cores_per_label

    @property
    def longest_evaluation(self) -> float:
        """Seconds that an evaluation may take here: as long as a pilot works."""
        found = WALLTIME.fullmatch(self.walltime)
        assert found  # else it were no section
        return 3600 * int(found[1]) + 60 * int(found[2]) - TO_END

    def for_potentials(self, potentials: Potentials) -> Self:
        """The machine as it is to one job that trains and relaxes, on all of its cores."""
        other = {key: value for key in type(potentials).model_fields if (value := getattr(potentials, key)) is not None}
        cores = potentials.cores_per_node or self.cores_per_node
        fixed = {"blocks": (0, 1), "nodes_per_block": 1, "slots": 1, "cores_per_label": cores, "potentials": None}
        del other["gpus"]
        return self.model_copy(update=other | fixed)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.blocks[0] > self.blocks[1]:
            raise Misfit([Finding(("blocks",), "the least number comes first")])
        needed = self.cores_per_label * (self.slots or 1)
        if needed > self.cores:
            words = f"{self.slots or 1} labels side by side on {self.cores_per_label} cores each need {needed} cores"
            raise Misfit([Finding(("cores_per_label",), f"{words}, a pilot has {self.cores}")])
        if self.nodes_per_block > 1 and self.cores_per_label == 1:
            words = "labels of one core stay on the first node; give more blocks instead, of one node each"
            raise Misfit([Finding(("nodes_per_block",), words)])
        return self


class Slurm(Cluster):
    """Jobs of Slurm."""

    partition: str | None = Field(None, description="partition of the jobs; null: the default one")
    account: str | None = Field(None, description="what pays for them; null: your default")
    potentials: SlurmPotentials | None = Field(
        None, description="job that trains and relaxes, with a GPU or without; null: the driver does"
    )


class Queue(Cluster):
    """Jobs of PBS, LSF or SGE."""

    queue: str | None = Field(None, description="queue of the jobs; null: the default one")
    account: str | None = Field(None, description="what pays for them; null: your default")
    potentials: QueuePotentials | None = Field(
        None, description="job that trains and relaxes, with a GPU or without; null: the driver does"
    )

    @model_validator(mode="after")
    def _asks_for_gpus(self) -> Self:
        if self.engine == "sge" and self.potentials and self.potentials.gpus:
            words = "each SGE has its own name for them; ask in options, e.g. options: [-l gpu=1], and leave out gpus"
            raise Misfit([Finding(("potentials", "gpus"), words)])
        return self


class OwnParsl(Machine):
    """Jobs as an expert's own Parsl Config describes them."""

    engine: str = "parsl"
    slots: Count | None = Field(
        None, description="labels computed side by side in one pilot; null: max_workers_per_node of the Config"
    )
    parsl: str = Field(description="file of Python with a Parsl Config, which is run")

    @field_validator("parsl")
    @classmethod
    def _is_python(cls, value: str, info: ValidationInfo) -> str:
        """An absolute name; it was relative to the machine file. The file is parsed and not run."""
        path = (info.context or {}).get(FOLDER, Path()) / Path(value).expanduser()
        try:
            ast.parse(path.read_bytes())
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from error
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{path}: no Python ({error})") from error
        return str(path.resolve())
