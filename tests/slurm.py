"""A real Slurm with one node on this machine, from the packages that .ci/slurm has unpacked into .slurm.

    with Slurm(folder, cpus=8) as slurm:
        slurm.command("sbatch", "--wrap", "hostname", env=slurm.env)

Nothing of it is installed or configured, and nothing is left of it in the end.
"""

from __future__ import annotations

import getpass
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

UNPACKED = Path(__file__).parent.parent / ".slurm"
LIBRARIES = UNPACKED / "usr" / "lib" / f"{os.uname().machine}-linux-gnu"
PROGRAMS = UNPACKED / "usr" / "sbin"
CONFIGURATION = """\
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=1
KillWait=10
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """Controller and one node, which has so many CPUs, whatever this machine has."""

    def __init__(self, folder: Path, cpus: int) -> None:
        self.folder, self.host = folder, socket.gethostname()
        self.configuration = folder / "slurm.conf"
        plugins = LIBRARIES / "slurm-wlm"
        self.configuration.write_text(
            CONFIGURATION.format(
                host=self.host, user=getpass.getuser(), ports=_free_ports(), plugins=plugins, folder=folder, cpus=cpus
            )
        )
        for name in ("state", "spool"):
            (folder / name).mkdir()
        self.env = os.environ | {
            "SLURM_CONF": str(self.configuration),
            "PATH": f"{UNPACKED / 'usr' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "LD_LIBRARY_PATH": f"{plugins}{os.pathsep}{LIBRARIES}",
        }
        self.daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        stepd = str(PROGRAMS / "slurmstepd-wlm")
        for words in (["slurmctld-wlm"], ["slurmd-wlm", "-d", stepd]):
            with (self.folder / f"{words[0]}.log").open("wb") as log:
                self.daemons.append(
                    subprocess.Popen(
                        [PROGRAMS / words[0], "-D", "-f", str(self.configuration), *words[1:]],
                        env=self.env,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        try:
            self.wait_for(lambda: "idle" in self.command("sinfo", "-h", "-o", "%T", check=False))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(subprocess.SubprocessError):
            self.cancel()
            self.wait_for(lambda: not self.jobs())
        for daemon in self.daemons:
            daemon.terminate()
        for daemon in self.daemons:
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()

    def command(self, *words: str, check: bool = True) -> str:
        """What a program of Slurm prints."""
        found = subprocess.run(words, env=self.env, capture_output=True, text=True, check=check, timeout=30)
        return found.stdout.strip()

    def jobs(self, *states: str) -> list[str]:
        """Ids of the jobs that are in the queue, or of those in these states."""
        chosen = ["-t", ",".join(states)] if states else []
        return self.command("squeue", "-h", "-o", "%i", *chosen).split()

    def cancel(self) -> None:
        """Cancel all jobs."""
        self.command("scancel", "-u", getpass.getuser())

    def set_node(self, state: str) -> None:
        """Set the node down, or let it resume."""
        self.command("scontrol", "update", f"NodeName={self.host}", f"State={state}", "Reason=test")

    def wait_for(self, condition, seconds: float = 60) -> None:
        """Until this is so."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(path.read_text() for path in self.folder.glob("*.log"))
                raise TimeoutError(f"waited in vain; Slurm says:\n{logs[-3000:]}")
            time.sleep(0.1)


def _free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in (one, other)]
