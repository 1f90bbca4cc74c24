"""Crystal structure prediction by active learning: find the most stable crystals with few DFT calculations.

run = csp_al.run("campaigns/lj8.yaml", "runs/lj8", on_event=print)
run.results
csp_al.open_run("runs/lj8").judgement
csp_al.open_runs("runs/si8-seed-*").leaders
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from csp_al.report.runs import open_runs
    from csp_al.report.tables import open_run
    from csp_al.running.run import load_campaign, run

    __version__: str

__all__ = ["__version__", "load_campaign", "open_run", "open_runs", "run"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then, so that the command line starts at once."""
    if name == "open_run":
        from csp_al.report.tables import open_run

        return open_run
    if name == "open_runs":
        from csp_al.report.runs import open_runs

        return open_runs
    if name in ("load_campaign", "run"):
        return getattr(import_module("csp_al.running.run"), name)  # above most that imports this module
    if name == "__version__":
        from importlib.metadata import version

        return version("csp_al")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
