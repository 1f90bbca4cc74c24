"""What every engine must keep, to be called from a test of one's own; `csp_al.testing` has it too.

def test_my_engine_keeps_its_contract(tmp_path):
    check_engine(lambda root: MyEngine(root), tmp_path)
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ase.build import bulk
from ase.calculators.emt import EMT

from csp_al import claim
from csp_al.engine.tasks import create_task, is_done, label_task, read_result
from csp_al.engine.wait import run_tasks
from csp_al.interfaces import Engine
from csp_al.reference.ase_calculator import AseReference

if TYPE_CHECKING:
    from collections.abc import Iterator

FOR_EVER: Final = 1000.0
PATIENCE: Final = 60.0
"""s; what takes a calculation that is never left to end, and how long is waited for one that is."""


class NotingEMT(EMT):
    """EMT that writes its name, host and process into a file at each evaluation, and then takes so many seconds."""

    def __init__(self, notes: str, name: str, seconds: float = 0.0) -> None:
        super().__init__()
        self.notes, self.note, self.seconds = Path(notes), f"{name} {socket.gethostname()} {os.getpid()}\n", seconds

    def calculate(self, *arguments: Any, **keywords: Any) -> None:
        """Energy, forces and stress."""
        with self.notes.open("a", encoding="utf-8") as file:
            file.write(self.note)
        time.sleep(self.seconds)
        super().calculate(*arguments, **keywords)


def check_engine(make: Callable[[Path], Engine], folder: Path) -> None:
    """Assert that an engine keeps the contract of `csp_al.interfaces.Engine`.

    ``make`` starts one that runs one task at a time, for a folder of tasks; the folder is an empty one. Takes half a
    minute on one machine.
    """
    for number, check in enumerate(_ENGINE):
        root = folder / str(number) / "tasks"
        root.mkdir(parents=True)
        with _closed(make(root)) as engine:
            check(engine, root)


def _runs_each_task_once_in_order(engine: Engine, root: Path) -> None:
    tasks = [_task(root, f"number-{number}") for number in range(4)]
    for task in [*tasks, *tasks]:  # queued
        engine.submit(task)
    engine.tick()
    engine.submit(tasks[0])  # running
    _run(engine, root, tasks)
    for task in tasks:  # finished
        engine.submit(task)
    _run(engine, root, [last := _task(root, "last")])
    assert _noted(root) == [f"number-{number}" for number in range(4)] + ["last"], "once each, in their order"
    assert engine.lost() == []
    results = [read_result(root, task) for task in (*tasks, last)]
    assert all(result is not None and result.done for result in results)


def _refuses_what_is_no_task(engine: Engine, root: Path) -> None:
    for name in ("0" * 20, "../elsewhere"):
        try:
            engine.submit(name)
        except ValueError as error:
            assert name in str(error), "the message names the task"  # noqa: PT017 - pytest need not be installed
        else:
            raise AssertionError(f"{name}: submitted, though there is no such task below {root}")


def _ends_what_runs_when_closed(engine: Engine, root: Path) -> None:
    first, slow, waiting = _task(root, "first"), _task(root, "slow", FOR_EVER), _task(root, "waiting")
    _run(engine, root, [first])
    result = (root / first / "result.json").read_bytes()
    for task in (slow, waiting):
        engine.submit(task)
    _wait_for_start(engine, root, "slow")
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < PATIENCE / 2, "within seconds"
    _wait(lambda: not any(map(_lives, _lines(root))), "what ran has ended")
    assert not claim.is_taken(root / slow)
    assert not is_done(root, slow)
    assert (root / first / "result.json").read_bytes() == result, "finished results are kept"
    assert set(engine.lost()) == {slow, waiting}


def _lets_what_runs_end_when_left(engine: Engine, root: Path) -> None:
    running, waiting = _task(root, "running", 1.5), _task(root, "waiting")
    for task in (running, waiting):
        engine.submit(task)
    _wait_for_start(engine, root, "running")
    started = time.monotonic()
    engine.leave()
    assert time.monotonic() - started < 1, "at once"
    _wait(lambda: is_done(root, running), "the task ends")
    _wait(lambda: not any(map(_lives, _lines(root))), "nothing runs any longer")
    assert not is_done(root, waiting)
    assert _noted(root) == ["running"], "nothing more is started"
    assert engine.lost() == [waiting]
    _run(engine, root, [waiting])


_ENGINE: Final[Sequence[Callable[[Engine, Path], None]]] = (
    _runs_each_task_once_in_order,
    _refuses_what_is_no_task,
    _ends_what_runs_when_closed,
    _lets_what_runs_end_when_left,
)


@contextmanager
def _closed(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.close()


def _task(root: Path, name: str, seconds: float = 0.0) -> str:
    parameters = {"notes": str(_notes(root)), "name": name, "seconds": seconds}
    reference = AseReference(kind="ase", calculator="csp_al.engine.contract.NotingEMT", parameters=parameters)
    return create_task(root, label_task(bulk("Al"), reference))


def _run(engine: Engine, root: Path, tasks: Sequence[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    run_tasks(engine, root, tasks, lambda *_: None, lambda: time.monotonic() > deadline)
    assert all(is_done(root, task) for task in tasks), f"not done within {PATIENCE:g} s"


def _wait_for_start(engine: Engine, root: Path, name: str) -> None:
    def started() -> bool:
        engine.tick()
        return name in _noted(root)

    _wait(started, f"the task {name} starts")


def _wait(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.02)


def _notes(root: Path) -> Path:
    return root.parent / "notes"


def _lines(root: Path) -> list[list[str]]:
    return (
        [line.split() for line in _notes(root).read_text(encoding="utf-8").splitlines()]
        if _notes(root).exists()
        else []
    )


def _noted(root: Path) -> list[str]:
    return [name for name, *_ in _lines(root)]


def _lives(line: list[str]) -> bool:
    _, host, process = line
    return host == socket.gethostname() and claim.start_time(int(process)) is not None
