"""A small campaign, run to its end by the real loop."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from csp_al.campaign import Campaign, read_campaign
from csp_al.campaign.machine import Machine
from csp_al.engine.engines import start_engine
from csp_al.events import Listener
from csp_al.interfaces import Verdict
from csp_al.loop.drive import Drive
from csp_al.loop.elsewhere import Elsewhere
from csp_al.loop.search import search
from csp_al.running.checks import foundation_of
from csp_al.store.lock import locked
from csp_al.store.run_directory import log, places, prepare, read_campaign_of

TINY = """
name: al2
pool: {formula: Al2, size: 8, volume_per_atom: [13, 23]}
reference: {kind: ase, calculator: ase.calculators.emt.EMT}
potential: {kind: schnet, members: 2, features: 8, interactions: 1, cutoff: 4, steps: 20}
relax: {max_steps: 10}
select: {per_cycle: 3}
stop: {max_cycles: 2}
finish: {max_steps: 5}
budget: {labels: 6}
"""
"""A campaign of seconds."""


def run_to_its_end(folder: Path, text: str, tell: Listener = lambda _: None) -> Path:
    """The run directory of the campaign of this text, whose file is left in the folder as NAME.yaml."""
    name = text.split("name: ", 1)[1].splitlines()[0]
    source, run = folder / f"{name}.yaml", folder / "runs" / name
    source.write_text(text)
    run.mkdir(parents=True)
    campaign = read_campaign(source)
    with locked(run):
        prepare(run, campaign, source, {})
        log(run, "started")
        verdict = _search(campaign, run, folder, tell, 2)
        log(run, "finished", reason=verdict.reason)
    return run


def cut_after(run: Path, folder: Path, keep: str) -> Path:
    """A copy of the run directory with the results of all tasks, and the stages up to this one alone; "": none."""
    copy = folder / run.name
    shutil.copytree(run, copy)
    following = keep == ""
    for _, _, place in places(copy):
        if following:
            shutil.rmtree(place, ignore_errors=True)
        following = following or place.relative_to(copy).as_posix() == keep
    return copy


def go_on(run: Path, stages: Elsewhere | None = None, tell: Listener = lambda _: None) -> Verdict:
    """Go on with a campaign, all of whose tasks have their results; ``stages`` as of `Drive`."""
    return _search(read_campaign_of(run, trust=True), run, run.parent, tell, 1, stages)


def _search(
    campaign: Campaign, run: Path, folder: Path, tell: Listener, slots: int, stages: Elsewhere | None = None
) -> Verdict:
    engine = start_engine(run / "tasks", Machine(slots=slots))
    foundation = foundation_of(campaign, Machine(), folder)
    try:
        device = torch.device("cpu")
        return search(Drive(campaign, run, folder, device, tell, engine, foundation=foundation, stages=stages))
    finally:
        engine.close()
        if foundation is not None:
            foundation.close()
