"""One run of the driver, as every stage sees it: where it works, with what, and whom it tells.

drive.stage(run / "cycle-00" / "train", write)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from csp_al.campaign import Campaign
from csp_al.disk_space import require_space
from csp_al.events import Advanced, Listener, StageStarted, Warned
from csp_al.interfaces import Engine
from csp_al.loop.tasks import StoppedError
from csp_al.report.plan import cycle_bytes
from csp_al.store.repair import QUARANTINE, set_aside, set_aside_from
from csp_al.store.run_directory import LAST, log, published_after, published_before, stop_requested
from csp_al.store.stages import UnconnectedError, follows, is_published, stage, verify

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Drive:
    """One run of the driver: the campaign, its run directory, what runs tasks, where tensors live, who is told.

    ``base`` is the folder that file names in the campaign file refer to; ``mend`` does again what no longer follows
    from the stage before it.
    """

    campaign: Campaign
    run: Path
    base: Path
    engine: Engine
    device: torch.device
    tell: Listener
    mend: bool = False

    def stage(self, folder: Path, write: Callable[[Path], None]) -> Path:
        """Publish a stage unless it is there, with a word at its start and at its end.

        Raises DamagedError, and OSError where there is no room for it.
        """
        after = published_before(self.run, folder)
        if self._stands(folder, after):
            return folder
        require_space(self.run, cycle_bytes(self.campaign))
        started = StageStarted(_cycle_of(folder), folder.name)
        log(self.run, "stage started", **asdict(started))
        self.tell(started)
        stage(folder, write, after, [after.relative_to(self.run).as_posix()] if after else [])
        log(self.run, "stage finished", **asdict(started))
        return folder

    def _stands(self, folder: Path, after: Path | None) -> bool:
        """Whether a stage is there and follows from the one before it."""
        if not is_published(folder):
            return False
        try:
            verify(folder)
            follows(folder, after)
        except UnconnectedError as error:
            if not self.mend:
                raise
            set_aside_from(self.run, folder)
            self.tell(Warned(f"{error.path}: {error.what}; it is done again, with all that follows"))
            return False
        return True

    def report(self, done: int, everything: int) -> None:
        """Tell how far a stage is. Raises `StoppedError` where a stop was asked for."""
        self.tell(Advanced(done, everything))
        require_space(self.run)
        if stop_requested(self.run):
            raise StoppedError

    def end_with(self, folder: Path) -> None:
        """Where a stage that was mended ends a search that had gone on from there, set aside what came after it."""
        if self.mend:
            set_aside(
                self.run, QUARANTINE, [later for later in published_after(self.run, folder) if later.name != LAST]
            )


def _cycle_of(folder: Path) -> int | None:
    name = folder.parent.name
    return int(name.removeprefix("cycle-")) if name.startswith("cycle-") else None
