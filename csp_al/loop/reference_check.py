"""The reference method, checked before a campaign spends its labels on it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from csp_al.engine.tasks import label_task
from csp_al.events import Warned
from csp_al.interfaces import Task
from csp_al.loop.drive import Drive
from csp_al.loop.tasks import alike, refuse
from csp_al.reference.derivatives import BLIND, Slope, indifferent, slopes, trial
from csp_al.reference.references import build_reference
from csp_al.results import Result
from csp_al.store.layout import CHECK, stage_folder
from csp_al.structures import Picks, Status

TRIES = 3
"""Candidates that are tried: the first may be one on which the reference fails."""


class WrongReferenceError(Exception):
    """Forces or stress of the reference are not derivatives of its energy; the message has the figures."""


def check(drive: Drive, picks: Picks) -> None:
    """Compare forces and stress of the reference with differences of its energies. Raises `WrongReferenceError`.

    One of the first cycle's labels is taken, so that four more evaluations do. Where the first few all fail for one
    reason, `TooManyFailedError`: the labels would fail likewise.
    """
    drive.stage(stage_folder(drive.run, "check"), lambda folder: _compare_slopes(drive, folder, picks))


def _compare_slopes(drive: Drive, folder: Path, picks: Picks) -> None:
    def run(tasks: list[Task]) -> list[Result]:
        return drive.calculate(folder, tasks)[1]

    reference = build_reference(drive.campaign.reference)
    trials = [trial(atoms, reference.kpoints, drive.campaign.seed) for atoms in picks.structures.to_atoms()]
    found: list[Slope] = []
    failed: list[Result] = []
    evaluations = wrong = blind = 0
    for tried in [one for one in trials if one.tells_stress][:TRIES]:
        tasks = [label_task(moved, drive.campaign.reference) for moved in tried.structures]
        results = run(tasks[:1])
        if results[0].done:
            results += run(tasks[1:])
        evaluations += sum(result.evaluations for result in results[1:])  # the first is a label
        values = [result.done for result in results if result.done]
        failed += [result for result in results if result.status is Status.FAILED]
        if len(values) == len(results):
            found = slopes(tried, values)
            blind += indifferent(values)
            wrong += indifferent(values) or any(slope.wrong for slope in found)
            if wrong != 1:  # what one candidate says is wrong, a second must say too
                break
    if len(failed) == TRIES and not found and len({alike(result) for result in failed}) == 1:
        refuse(failed, f"the first {TRIES} calculations failed alike, so that no label was asked for")
    if blind > 1:
        raise WrongReferenceError(f"{BLIND}, and start the campaign under a new name")
    refuse_wrong(found)
    for slope in found:
        if not slope.close:
            drive.tell(Warned(str(slope)))
    CHECK.write(folder, {"evaluations": evaluations, "slopes": [asdict(slope) for slope in found]})


def refuse_wrong(found: list[Slope]) -> None:
    """Raise `WrongReferenceError` if a slope is wrong."""
    if any(slope.wrong for slope in found):
        lines = "\n".join(f"  {slope}" for slope in found)
        msg = (
            f"forces or stress of the reference are not the derivatives of its energy:\n{lines}\n"
            "Raise its cutoff, or mend its sign or units, and start the campaign under a new name; "
            "`csp-al doctor --reference FILE` checks it again."
        )
        raise WrongReferenceError(msg)
