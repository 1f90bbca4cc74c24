"""EMT that does first what no calculation should, for tests that others go on."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ase.calculators.emt import EMT

BLOCK = b"SCF step: not converged yet\n" * 2000
PROGRAM = "echo $$ >> {notes}; exec sleep 1000"


class MisbehavingEMT(EMT):
    """EMT; ``does`` is the name of a method below, ``notes`` a file for process ids."""

    def __init__(self, does: str, notes: str = "") -> None:
        super().__init__()
        self.does, self.notes = does, Path(notes)

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        getattr(self, self.does)()
        super().calculate(*args, **kwargs)
        if self.does == "drops_a_force":
            self.results["forces"] = self.results["forces"][:-1]
        if self.does == "moves_the_atoms":
            args[0].positions[0] += 0.1
        if self.does == "removes_its_folder":  # ASE makes it anew before
            shutil.rmtree(self.directory)

    def does_nothing(self) -> None:
        pass

    drops_a_force = moves_the_atoms = removes_its_folder = does_nothing

    # --- what ends a process, or its worker

    def exits_at_once(self) -> None:
        os._exit(0)

    def raises_system_exit(self) -> None:
        sys.exit("enough")

    def raises_keyboard_interrupt(self) -> None:
        raise KeyboardInterrupt

    def kills_its_group(self) -> None:
        os.killpg(0, signal.SIGKILL)

    def kills_its_worker(self) -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1000)

    def stops_its_worker(self) -> None:
        os.kill(os.getppid(), signal.SIGSTOP)

    def terminates_its_worker(self) -> None:
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(1000)

    # --- what disturbs files and processes of its own

    def removes_its_folder_and_dies(self) -> None:
        shutil.rmtree(self.directory)
        os._exit(1)

    def leaves_an_outcome_that_is_none(self) -> None:
        (Path(self.directory) / "outcome.json").write_text("{}")
        os._exit(1)

    def writes_to_low_files(self) -> None:
        for number in range(3, 20):
            try:
                os.write(number, b"errno 28\n{}\n")
            except OSError:
                continue

    def closes_all_files(self) -> None:
        os.closerange(0, 4096)

    def closes_its_output(self) -> None:
        sys.stdout.close()
        sys.stderr.close()

    def ignores_its_children(self) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        subprocess.run(["true"], check=False)

    def leaves_files_open(self) -> None:
        with suppress(OSError):
            while True:
                os.open("/dev/null", os.O_RDONLY)

    def allows_no_files(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    def goes_elsewhere(self) -> None:
        os.chdir("/")

    def leaves_threads(self) -> None:
        threading.Thread(target=time.sleep, args=(1000,)).start()

    def forks_itself(self) -> None:
        os.fork()

    # --- what it says

    def complains_in_bytes(self) -> None:
        raise ValueError(f"not converged: {os.fsdecode(bytes([0xE9, 0xFF]))}\x1b[31m")

    def complains_at_length(self) -> None:
        raise SystemExit("no" * 10_000_000)

    def prints_without_end(self) -> None:
        print("the beginning", flush=True)
        while True:
            os.write(1, BLOCK)

    def prints_much(self) -> None:
        print("the beginning", flush=True)
        for _ in range(1000):
            os.write(1, BLOCK)
        print("the end")

    # --- what it leaves running

    def leaves_a_program(self) -> None:
        subprocess.Popen(["sh", "-c", PROGRAM.format(notes=self.notes)])
        self._wait_for_notes()

    def leaves_a_daemon(self) -> None:
        subprocess.run(
            ["sh", "-c", f"setsid sh -c '{PROGRAM.format(notes=self.notes)}' > /dev/null 2>&1 &"], check=True
        )
        self._wait_for_notes()

    def leaves_a_fork(self) -> None:
        if os.fork() == 0:
            os.setsid()
            self.notes.write_text(f"{os.getpid()}\n")
            time.sleep(1000)
        self._wait_for_notes()

    def waits_for_a_program(self) -> None:
        subprocess.run(["sh", "-c", PROGRAM.format(notes=self.notes)], check=True)

    def waits_for_a_program_that_forgets_where_it_is_from(self) -> None:
        subprocess.run(["env", "-i", "/bin/sh", "-c", PROGRAM.format(notes=self.notes)], check=True)

    def waits_for_a_daemon(self) -> None:
        self.leaves_a_daemon()
        time.sleep(1000)

    def _wait_for_notes(self) -> None:
        while not (self.notes.exists() and self.notes.read_text().endswith("\n")):
            time.sleep(0.01)
