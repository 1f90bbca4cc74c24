"""A small campaign, run to its end by the real loop."""

from __future__ import annotations

from pathlib import Path

import torch

from csp_al.campaign import read_campaign
from csp_al.campaign.machine import Machine
from csp_al.engine.engines import start_engine
from csp_al.events import Listener
from csp_al.loop.drive import Drive
from csp_al.loop.search import search
from csp_al.store.lock import locked
from csp_al.store.run_directory import log, prepare


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
        engine = start_engine(run / "tasks", Machine(slots=2))
        try:
            verdict = search(Drive(campaign, run, folder, torch.device("cpu"), tell, engine))
        finally:
            engine.close()
        log(run, "finished", reason=verdict.reason)
    return run
