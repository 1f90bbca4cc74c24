"""The loop, as the algorithm box of the paper has it.

Hessmann et al., npj Comput. Mater. (2025), arXiv:2408.04073. Every line below is a stage: it is done once, published
whole, and read back when a campaign is continued, so that this function is run from its start each time.
"""

from __future__ import annotations

from csp_al.interfaces import Verdict
from csp_al.loop import stages
from csp_al.loop.drive import Drive
from csp_al.loop.finish import finish
from csp_al.loop.imported import import_labels, verify_imported
from csp_al.loop.progress import Progress
from csp_al.loop.reference_check import check


def search(drive: Drive) -> Verdict:
    """Run a campaign to its end, or continue it; the winners are published in the run directory.

    Labels from elsewhere, where the campaign has any, take the place of the random draw and of the check of forces.
    Returns why the search stopped. Raises `WrongReferenceError`, `UntrustedLabelsError`, `TooManyFailedError` or
    `NoResultError` where there is nothing to rank, and `StoppedError` when somebody asked for a stop.
    """
    given = import_labels(drive)
    progress = stages.generate(drive)
    if drive.campaign.unlabelled:
        return _search_unlabelled(drive, progress)
    stages.begin_on_foundation(drive, progress)
    picks = stages.draw(drive, progress) if given is None else None
    if picks is not None:
        check(drive, picks)
    for cycle in range(drive.campaign.stop.max_cycles):
        if picks is not None:
            stages.learn(drive, cycle, progress, stages.label(drive, cycle, progress, picks))
        elif given is not None:
            stages.learn(drive, cycle, progress, verify_imported(drive, given))
        progress.ensemble = stages.train(drive, cycle, progress)
        relaxed = stages.relax(drive, cycle, progress, progress.ensemble)
        stages.learn_direct(drive, cycle, progress, relaxed)
        relaxed = stages.grow(drive, cycle, progress, progress.ensemble, relaxed)
        table = stages.rank(drive, cycle, progress, relaxed)
        verdict = stages.judge(drive, cycle, relaxed, table, progress)
        if verdict.stop:
            break
        picks = stages.select(drive, cycle, progress, progress.ensemble, relaxed)
    drive.keep_going([])
    finish(drive, progress)
    return verdict


def _search_unlabelled(drive: Drive, progress: Progress) -> Verdict:
    """One cycle, in which the foundation takes the place of the ensemble, and nothing is labelled."""
    foundation = drive.foundation
    assert foundation is not None  # the campaign file was checked
    relaxed = stages.relax(drive, 0, progress, foundation.fresh)
    stages.learn_direct(drive, 0, progress, relaxed)
    relaxed = stages.grow(drive, 0, progress, foundation.fresh, relaxed)
    verdict = stages.judge(drive, 0, relaxed, stages.rank(drive, 0, progress, relaxed), progress)
    finish(drive, progress)
    return verdict
