"""Parsl's providers of jobs, as machine files describe them.

In each job one command is run once, on the first node: a pilot, which is no worker of Parsl's.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csp_al.campaign.clusters import Cluster, OwnParsl, Queue, Slurm
from csp_al.engine.jobs import in_one_line
from csp_al.engine.local import JOB_BEGAN
from csp_al.importing import beside, here_too

if TYPE_CHECKING:
    from types import ModuleType

    from parsl.executors.base import ParslExecutor
    from parsl.providers.base import ExecutionProvider

ANSWERS = 60  # s within which a scheduler answers


def provider_of(machine: Cluster, gpus: int = 0) -> ExecutionProvider:
    """The provider for the jobs of a cluster, with so many GPUs each."""
    from parsl.launchers import SimpleLauncher
    from parsl.providers import GridEngineProvider, LSFProvider, PBSProProvider, SlurmProvider

    common: dict[str, Any] = {
        "nodes_per_block": machine.nodes_per_block,
        "walltime": machine.walltime,
        "worker_init": _setup(machine.setup),
        "launcher": SimpleLauncher(),
        "cmd_timeout": ANSWERS,
    }
    cores, options = machine.cores_per_node, machine.options
    # a job that begins anew by itself would be a second pilot of its name: --no-requeue and the like
    match machine:
        case Slurm():
            common["scheduler_options"] = _lines("#SBATCH", ["--no-requeue", *_gpus_of_slurm(gpus), *options])
            return SlurmProvider(
                partition=machine.partition,
                account=machine.account,
                cores_per_node=cores,
                exclusive=False,
                **common,
            )
        case Queue(engine="pbs"):
            common["scheduler_options"] = _lines("#PBS", ["-r n", *options])
            return PBSProProvider(
                queue=machine.queue,
                account=machine.account,
                cpus_per_node=cores,
                select_options=f"mpiprocs={cores}" + (f":ngpus={gpus}" if gpus else ""),
                **common,
            )
        case Queue(engine="lsf"):
            asked = [f'-gpu "num={gpus}"'] if gpus else []
            common["scheduler_options"] = _lines("#BSUB", ["-rn", *asked, *options])
            return LSFProvider(
                queue=machine.queue,
                project=machine.account,
                request_by_nodes=False,
                cores_per_block=machine.cores,
                cores_per_node=cores,
                bsub_redirection=True,
                **common,
            )
        case Queue(engine="sge"):
            account = [f"-P {machine.account}"] if machine.account else []
            common["scheduler_options"] = _lines("#$", ["-r n", *account, *options])
            return GridEngineProvider(queue=machine.queue, **common)
    raise ValueError(f"engine {machine.engine}: its jobs are not known")


def own_provider(machine: OwnParsl) -> tuple[ExecutionProvider, int]:
    """The provider of an expert's Config, whose file is run, and labels side by side in one of its jobs.

    Raises ValueError where the file cannot be run, or holds no such Config.
    """
    from parsl.config import Config

    path = Path(machine.parsl)
    configs = [value for value in vars(_run(path)).values() if isinstance(value, Config)]
    executors: list[ParslExecutor] = [
        one for config in configs for one in config.executors if getattr(one, "provider", None) is not None
    ]
    if len(executors) != 1:
        raise ValueError(f"{path}: one Config with one executor that has a provider is expected")
    provider: ExecutionProvider = executors[0].provider
    each = getattr(executors[0], "max_workers_per_node", None)
    slots = machine.slots or (each * int(provider.nodes_per_block) if isinstance(each, int) else None)
    if slots is None:
        raise ValueError(f"{path}: how many labels are computed side by side? Give max_workers_per_node, or slots")
    provider.worker_init = f"{_setup(())}\n{getattr(provider, 'worker_init', '')}"
    return provider, slots


def slurm_options(machine: Slurm, gpus: int = 0) -> list[str]:
    """What a job of Slurm asks for, as words of a command."""
    named = {"partition": machine.partition, "account": machine.account}
    return [
        f"--nodes={machine.nodes_per_block}",
        f"--ntasks-per-node={machine.cores_per_node}",
        f"--time={machine.walltime}",
        *(f"--{key}={value}" for key, value in named.items() if value),
        *_gpus_of_slurm(gpus),
        *(word for option in machine.options for word in shlex.split(option)),
    ]


def _gpus_of_slurm(gpus: int) -> list[str]:
    return [f"--gpus-per-node={gpus}"] if gpus else []


def _run(path: Path) -> ModuleType:
    """The module in a file of Python."""
    spec = importlib.util.spec_from_file_location("csp_al_parsl_config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: a name that ends with .py is expected")
    module = importlib.util.module_from_spec(spec)
    try:
        with beside(path.parent), here_too():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path}: {type(error).__name__}: {in_one_line(error)}") from error
    return module


def _setup(lines: Sequence[str]) -> str:
    """What a job begins with; PYTHONPATH, since some schedulers give jobs nothing of the environment."""
    paths = [f"export PYTHONPATH={shlex.quote(path)}"] if (path := os.environ.get("PYTHONPATH")) else []
    return "\n".join([f"export {JOB_BEGAN}=$(date +%s)", *paths, *lines])


def _lines(directive: str, options: Sequence[str]) -> str:
    return "\n".join(f"{directive} {option}" for option in options)
