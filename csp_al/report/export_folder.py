"""The folder that an export goes to: of one run alone, with a README and checksums, and nothing lost that was there.

folder = ExportFolder(Path("export/si8"), open_run("runs/si8"))
folder.take(aside, replaced=("winners-cif",))
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from csp_al.files import write_atomically
from csp_al.printing import printable
from csp_al.report.export_readme import readme
from csp_al.report.tables import Run
from csp_al.store.run_directory import PROVENANCE

SUMS: Final = "SHA256SUMS"
README: Final = "README.md"
OWNER: Final = "# files of the run "


@dataclass(frozen=True)
class ExportFolder:
    """A folder that holds, or will hold, what was exported of one run."""

    path: Path
    run: Run

    def refuse_others(self) -> None:
        """Raise ValueError where the folder has the export of another run."""
        if self.path.is_file():
            raise ValueError(f"{self.path}: a file, where a folder is expected; name another with --to")
        there, owner = self._written()
        if owner is not None and owner != self._owner:
            name = printable(owner.rpartition(", ")[0])
            raise ValueError(f"{self.path}: files of the run {name} are there; choose another folder with --to")
        if owner is None and (self.path / README).exists():
            raise ValueError(f"{self.path}: a {README} that no export wrote is there; choose another folder with --to")
        if gone := [name for name, digest in there.items() if self._changed(name, digest)]:
            raise ValueError(f"{self.path / gone[0]}: changed since it was exported; move it, or choose another folder")

    def take(self, aside: Path, replaced: Sequence[str]) -> list[Path]:
        """Move the files that lie aside here, instead of those of an earlier export of this run whose names begin so.

        Raises ValueError, and moves nothing, where a file is in the way that no export of this run wrote.
        """
        there, _ = self._written()
        new = sorted(str(path.relative_to(aside)) for path in aside.rglob("*") if path.is_file())
        for name in new:
            if name not in there and (self.path / name).exists():
                raise ValueError(f"{self.path / name}: there already, of no export; move it, or choose another folder")
        kept = {name: digest for name, digest in there.items() if not name.startswith(tuple(replaced))}
        for name in there.keys() - kept.keys():
            (self.path / name).unlink(missing_ok=True)
        for name in new:
            kept[name] = _digest(aside / name)
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).replace(self.path / name)
        write_atomically(self.path / README, readme(self.run, sorted(kept)))
        lines = [f"{digest}  {name}" for name, digest in sorted(kept.items())]
        write_atomically(self.path / SUMS, "\n".join([OWNER + self._owner, *lines, ""]))
        return [self.path / name for name in new]

    @property
    def _owner(self) -> str:
        """What tells the run from all others: its name, and what was written when it began."""
        began = self.run.path / PROVENANCE
        digest = hashlib.sha256(began.read_bytes()).hexdigest()[:16] if began.is_file() else "of unknown origin"
        return f"{self.run.campaign.name}, {digest}"

    def _written(self) -> tuple[dict[str, str], str | None]:
        """Checksums by name of what exports have written here, and of which run; None for a folder without."""
        try:
            first, *lines = (self.path / SUMS).read_text(encoding="utf-8").splitlines() or [""]
        except FileNotFoundError:
            return {}, None
        found = [re.fullmatch(r"([0-9a-f]{64})  ([\w.+-]+(?:/[\w.+-]+)*)", line) for line in lines]
        return {line[2]: line[1] for line in found if line and ".." not in line[2]}, first.removeprefix(OWNER)

    def _changed(self, name: str, digest: str) -> bool:
        path = self.path / name
        return path.exists() and _digest(path) != digest


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
