"""Two machines of one name at one run directory; each has mount and UTS namespaces and a boot of its own (Linux)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty_emt import CAMPAIGN
from outcomes import cut_off, outcome

from csp_al import claim
from csp_al.store.lock import LOCK

BOOT = "/proc/sys/kernel/random/boot_id"
DRIVER = "from csp_al.cli import app; app()"
BOOTED = f'mount --bind "$0" {BOOT} && exec "$@"'


class Machines:
    """A campaign file in a folder, and machines that can run it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "runs" / "small"
        folder.mkdir()
        (folder / "small.yaml").write_text(CAMPAIGN.format(folder="."))

    def start(self, boot: str) -> subprocess.Popen[bytes]:
        """A driver on the machine that booted so."""
        booted = self.folder / boot
        booted.write_text(boot)
        isolated = ["unshare", "--mount", "--uts", "sh", "-c", BOOTED, str(booted)]
        command = [sys.executable, "-c", DRIVER, "run", "small.yaml", "--slots", "1", "--device", "cpu"]
        paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        with self.output(boot).open("ab") as output:
            return subprocess.Popen(
                isolated + command,
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": paths},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def output(self, boot: str) -> Path:
        """What drivers of this machine have printed."""
        return self.folder / f"{boot}.txt"

    def calculations(self) -> list[int]:
        """Process ids of all that were begun."""
        path = self.folder / "pids"
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    def let_a_minute_pass(self, *claims: Path) -> None:
        """Without a touch of these."""
        past = time.time() - claim.STALE - 1
        for path in claims:
            os.utime(path, (past, past))


@pytest.fixture
def machines(tmp_path) -> Machines:
    try:
        subprocess.run(["unshare", "--mount", "--uts", "sh", "-c", BOOTED, __file__, "true"], check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("needs the right to make namespaces")
    return Machines(tmp_path / "here")


@pytest.fixture
def undisturbed(tmp_path) -> dict[str, object]:
    alone = Machines(tmp_path / "alone")
    assert alone.start("only").wait(timeout=120) == 0, alone.output("only").read_text()
    return outcome(alone.run)


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.mark.long
def test_machine_of_the_same_name_takes_over_from_a_sleeping_driver_and_nothing_runs_twice(machines, undisturbed):
    slow = machines.folder / "slow"
    slow.touch()
    first = machines.start("first")
    wait_until(machines.calculations)
    assert machines.start("second").wait(timeout=60) == 3
    assert f"process {first.pid}" in machines.output("second").read_text()
    first.send_signal(signal.SIGSTOP)
    machines.let_a_minute_pass(machines.run / LOCK)
    second = machines.start("second")
    wait_until((machines.run / f"{LOCK}.1").exists)
    (running,) = machines.calculations()
    slow.unlink()
    assert second.wait(timeout=120) == 0, machines.output("second").read_text()
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=60) == 3, machines.output("first").read_text()
    assert "another driver took over and has ended" in machines.output("first").read_text()
    assert outcome(machines.run) == undisturbed
    assert machines.calculations().count(running) == 1
    assert cut_off(machines.run) == 0


@pytest.mark.long
def test_campaign_of_a_machine_that_has_died_goes_on_at_another_of_its_name(machines, undisturbed):
    slow = machines.folder / "slow"
    slow.touch()
    first = machines.start("first")
    wait_until(machines.calculations)
    (attempt,) = machines.calculations()
    worker = int(Path(f"/proc/{attempt}/stat").read_text().rpartition(")")[2].split()[1])
    for process in (first.pid, worker):  # the attempt dies with its worker
        os.kill(process, signal.SIGKILL)
    first.wait()
    slow.unlink()
    machines.let_a_minute_pass(machines.run / LOCK, *machines.run.glob("tasks/*/claim"))
    assert machines.start("second").wait(timeout=120) == 0, machines.output("second").read_text()
    assert outcome(machines.run) == undisturbed
    assert cut_off(machines.run) == 1
