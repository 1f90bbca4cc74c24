"""The reference method, checked before a campaign spends its labels on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from csp_al.engine.tasks import label_task
from csp_al.events import Warned
from csp_al.loop.drive import Drive
from csp_al.loop.opening import openings
from csp_al.loop.tasks import alike, is_tight, refuse
from csp_al.reference.derivatives import BLIND, Slope, Trial, indifferent, slopes, trial
from csp_al.reference.references import build_reference
from csp_al.results import Result
from csp_al.store.layout import CHECK, stage_folder
from csp_al.structures import Picks, Status

if TYPE_CHECKING:
    from ase import Atoms

TRIES = 3
"""Candidates that are tried: the first may be one on which the reference fails."""

NOT_CHECKED: Final = (
    "forces and stress of the reference were compared with nothing: no candidate that was tried has all its single "
    "points; 'csp-al doctor --reference FILE' checks them"
)


class WrongReferenceError(Exception):
    """Forces or stress of the reference are not derivatives of its energy; the message has the figures."""


def check(drive: Drive, picks: Picks) -> None:
    """Compare forces and stress of the reference with differences of its energies. Raises `WrongReferenceError`.

    One of the first cycle's labels is taken, its cell opened as it will be, so that four more evaluations do. Where the
    first few all fail for one reason, `TooManyFailedError`: the labels would fail likewise.
    """
    drive.stage(stage_folder(drive.run, "check"), lambda folder: _compare_slopes(drive, folder, picks))


def _compare_slopes(drive: Drive, folder: Path, picks: Picks) -> None:
    def tried_with(atoms: Atoms) -> Trial:
        return trial(atoms, reference.kpoints, drive.campaign.seed)

    reference = build_reference(drive.campaign.reference)
    cells = [atoms for atoms in picks.structures.to_atoms() if tried_with(atoms).tells_stress]
    found: list[Slope] = []
    failed: list[Result] = []
    evaluations = wrong = blind = 0
    for cell in cells[:TRIES]:
        tried, results = _calculate(drive, folder, map(tried_with, openings(cell, drive.campaign)))
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
    if not found:
        drive.tell(Warned(NOT_CHECKED))
    for slope in found:
        if not slope.close:
            drive.tell(Warned(str(slope)))
    CHECK.write(folder, {"evaluations": evaluations, "slopes": [asdict(slope) for slope in found]})


def _calculate(drive: Drive, folder: Path, trials: Iterable[Trial]) -> tuple[Trial, list[Result]]:
    """The first trial that is not too tight, or the last, and the results of its structures, of one if it fails."""

    def run(structures: list[Atoms]) -> list[Result]:
        return drive.calculate(folder, [label_task(atoms, drive.campaign.reference) for atoms in structures])[1]

    for tried in trials:
        results = run(tried.structures[:1])
        if not is_tight(results[0]):
            break
    return tried, results + (run(tried.structures[1:]) if results[0].done else [])


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
