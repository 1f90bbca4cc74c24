"""What the machine file of a cluster says: which jobs there are, in each of which a pilot computes labels.

engine: slurm
partition: cpu
walltime: 08:00:00
blocks: [0, 8]
cores_per_node: 64
cores_per_label: 16
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from csp_al.campaign.errors import Finding, Misfit
from csp_al.campaign.machine import FOLDER, Machine
from csp_al.campaign.section import Count

TO_END: Final = 30
"""s before its walltime at which a pilot ends what it runs."""
WALLTIME: Final = re.compile(r"([0-9]+):([0-5][0-9]):00")


class Cluster(Machine):
    """Jobs of a scheduler; whatever the scheduler is."""

    slots: Count | None = Field(
        None, description="labels computed side by side in one pilot; null: as many as its cores allow"
    )
    blocks: tuple[Annotated[int, Field(strict=True, ge=0)], Count] = Field(
        (0, 1), description="pilots, each a job: so many are kept, and so many there are at most"
    )
    walltime: str = Field(description="how long a pilot lasts, HH:MM:SS in whole minutes")
    nodes_per_block: Count = Field(1, description="nodes of one pilot; above 1 the launcher must reach all of them")
    cores_per_node: Count = Field(description="cores of a node that a pilot asks for")
    setup: tuple[str, ...] = Field((), description="lines of bash at the beginning of a job, e.g. module load qe/7.3")
    options: tuple[str, ...] = Field((), description="further options of the job, e.g. --mem=60G, a line each")

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

    @field_validator("walltime")
    @classmethod
    def _is_time(cls, value: str) -> str:
        found = WALLTIME.fullmatch(value)
        if found is None or not int(found[1]) + int(found[2]):
            raise ValueError(f"HH:MM:SS in whole minutes is expected, e.g. 08:00:00, not {value}")
        return value

    @field_validator("setup", "options")
    @classmethod
    def _are_lines(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(len(line.splitlines()) > 1 for line in value):
            raise ValueError("one line each is expected")
        return value

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


class Queue(Cluster):
    """Jobs of PBS, LSF or SGE."""

    queue: str | None = Field(None, description="queue of the jobs; null: the default one")
    account: str | None = Field(None, description="what pays for them; null: your default")


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
