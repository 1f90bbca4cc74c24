"""`csp-al doctor --reference FILE`: five single points that tell whether a reference can be trusted."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from csp_al.campaign.machine import Machine
from csp_al.interfaces import Engine
from csp_al.interruption import Interrupted, interruptible, safe_point
from csp_al.printing import say
from csp_al.running.checks import checked_campaign, for_workers, reference_of

DONE, WRONG = 0, 1
RATTLE = 0.1  # Å, so that no force vanishes by symmetry


def try_reference(path: Path, machine: Machine) -> int:
    """Compute a candidate of the pool, moved and strained, and print forces and stress both ways. The exit status."""
    from csp_al.engine.engines import check_machine, start_engine
    from csp_al.engine.tasks import create_task, label_task, read_result
    from csp_al.generate import generate_pool
    from csp_al.interfaces import Status
    from csp_al.reference.derivatives import BLIND, indifferent, slopes, trial

    file = checked_campaign(path, machine)
    campaign = file.campaign
    reference = reference_of(campaign, machine, path.parent)
    campaign = campaign.model_copy(update={"reference": reference.pinned()})
    pool = campaign.pool.model_copy(update={"size": 1, "seeds": ()})
    structures, _ = generate_pool(pool, campaign.seed, report=lambda *_: None, folder=path.parent)
    (atoms,) = structures.to_atoms()
    atoms.positions += np.random.default_rng(campaign.seed).uniform(-RATTLE, RATTLE, (len(atoms), 3))
    programs = ", ".join(f"{name} {version}" for name, version in reference.versions().items())
    say(f"{reference.name}{f' ({programs})' if programs else ''}: a random {campaign.pool.formula}, perturbed")
    if mesh := reference.kpoints(atoms):
        say(f"k-points: {' x '.join(map(str, mesh))}")
    root = Path(tempfile.mkdtemp(prefix="csp-al-doctor-")) / "tasks"
    tried = trial(atoms, reference.kpoints, campaign.seed)
    names = [create_task(root, label_task(moved, campaign.reference)) for moved in tried.structures]
    check_machine(machine)
    if status := _compute(start_engine(root, for_workers(machine, campaign, path.parent)), root, names):
        return status
    results = [result for name in names if (result := read_result(root, name))]
    for number, result in enumerate(results):
        for attempt in result.attempts:
            if attempt.status is not Status.DONE:
                remedy = f" ({attempt.remedy})" if attempt.remedy else ""
                say(f"single point {number}, attempt {attempt.attempt}{remedy}: {attempt.reason}")
    values = [result.done for result in results if result.done]
    if len(values) < len(names):
        key = "calculator" if hasattr(campaign.reference, "calculator") else "kind"
        message = f"no verdict: not every single point has a result. What each wrote is in {root}"
        say(str(file.problem(("reference", key), message)))
        return WRONG
    say(f"core time: {np.mean([result.cost for result in results]):.3g} s a single point")
    found = slopes(tried, values)
    for slope in found:
        say(str(slope))
    if tried.tells_stress and indifferent(values):
        say(BLIND)
        return WRONG
    if not all(slope.close for slope in found):
        say(f"What each single point wrote is in {root}")
        return WRONG
    shutil.rmtree(root.parent)
    return DONE


def _compute(engine: Engine, root: Path, names: Sequence[str]) -> int:
    """Compute these tasks; 0, or the exit status of a signal."""
    from csp_al.engine.wait import run_tasks

    def should_stop() -> bool:
        safe_point()
        return False

    try:
        with interruptible():
            run_tasks(engine, root, names, lambda done, every: say(f"{done} of {every} done"), should_stop)
    except Interrupted as end:
        return end.status
    finally:
        engine.close()
    return DONE
