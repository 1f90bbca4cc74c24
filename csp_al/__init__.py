"""Crystal structure prediction by active learning: find the most stable crystals with few DFT calculations.

run = csp_al.open_run("runs/si8")
run.results
csp_al.open_runs("runs/si8-seed-*").leaders
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from csp_al.report.runs import open_runs
    from csp_al.report.tables import open_run

    __version__: str

__all__ = ["__version__", "open_run", "open_runs"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then, so that the command line starts at once."""
    if name == "open_run":
        from csp_al.report.tables import open_run

        return open_run
    if name == "open_runs":
        from csp_al.report.runs import open_runs

        return open_runs
    if name == "__version__":
        from importlib.metadata import version

        return version("csp_al")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
