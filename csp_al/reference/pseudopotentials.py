"""Pseudopotentials in the UPF format: which file, of which element, with which cutoffs, and whether it is the same.

found = find(Path("pseudos"), ["Na", "Cl"], {})
suggested_cutoffs(found)
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HEADER: Final = re.compile(r"<PP_HEADER\b(.*?)(?:/>|</PP_HEADER>)", re.DOTALL)
ATTRIBUTE: Final = re.compile(r'(\w+)\s*=\s*"\s*([^"]*?)\s*"')
SYNONYMS: Final = {
    "SLA PW PBX PBC": "PBE",
    "SLA PW PBE PBE": "PBE",
    "SLA PW PSX PSC": "PBESOL",
    "SLA PZ NOGX NOGC": "LDA",
    "PZ": "LDA",
}
"""Functionals by their parts, as some libraries name them."""

RYDBERGS_PER_HARTREE: Final = 2


class PseudopotentialError(Exception):
    """A pseudopotential that is missing or not what it should be; the message says which, and what to do."""


@dataclass(frozen=True)
class Pseudopotential:
    """What the header of a UPF file says. Cutoffs in Ry, None where the file suggests none."""

    path: Path
    element: str
    functional: str
    kind: str
    """NC, US or PAW."""
    valence: float
    """Electrons."""
    ecutwfc: float | None
    ecutrho: float | None

    @property
    def density_factor(self) -> float:
        """Least ratio of ecutrho to ecutwfc: augmentation charges of ultrasoft kinds are harder than the waves."""
        return 4.0 if self.kind in {"NC", "SL"} else 8.0


def find(folder: Path, elements: Iterable[str], named: Mapping[str, str]) -> dict[str, Pseudopotential]:
    """The pseudopotential of each element in a folder: the named file, or the only one whose name begins with it.

    Raises PseudopotentialError for an element without a file or with several, and for a file of another element.
    """
    if not folder.is_dir():
        raise PseudopotentialError(f"there is no folder {folder}")
    return {element: _read_as(element, _file_of(element, folder, named)) for element in elements}


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def suggested_cutoffs(found: Mapping[str, Pseudopotential]) -> tuple[float | None, float | None]:
    """The highest ecutwfc and ecutrho (Ry) that the pseudopotentials suggest; None where one suggests nothing."""
    waves = [pseudo.ecutwfc for pseudo in found.values()]
    densities = [pseudo.ecutrho for pseudo in found.values() if pseudo.ecutrho]
    known = [cutoff for cutoff in waves if cutoff]
    return (max(known) if known and len(known) == len(waves) else None), (max(densities) if densities else None)


def read(path: Path) -> Pseudopotential:
    """The header of a UPF file, of version 2. Raises PseudopotentialError for a file without one."""
    try:
        header = HEADER.search(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise PseudopotentialError(f"{path} cannot be read ({error.strerror})") from error
    said = dict(ATTRIBUTE.findall(header[1])) if header else {}
    if not {"element", "z_valence", "pseudo_type"} <= set(said):
        raise PseudopotentialError(f"{path} has no header of UPF version 2; convert it with upfconv.x, or take another")
    waves, density = (_positive(said.get(name, "")) for name in ("wfc_cutoff", "rho_cutoff"))
    beside = _beside(path)
    return Pseudopotential(
        path=path,
        element=said["element"],
        functional=_functional(said.get("functional", "")),
        kind=said["pseudo_type"].upper(),
        valence=float(said["z_valence"].replace("D", "E")),
        ecutwfc=waves or beside,
        ecutrho=density if waves else None,  # without the other it is the extent of the core charge (ONCVPSP)
    )


def _read_as(element: str, path: Path) -> Pseudopotential:
    pseudo = read(path)
    if pseudo.element != element:
        raise PseudopotentialError(f"{path} is a pseudopotential of {pseudo.element}, not of {element}")
    return pseudo


def _file_of(element: str, folder: Path, named: Mapping[str, str]) -> Path:
    if element in named:
        path = folder / named[element]
        if not path.is_file():
            raise PseudopotentialError(f"there is no file {path} for {element}")
        return path
    begins = re.compile(rf"{element}(?![a-z])", re.IGNORECASE)
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".upf" and begins.match(p.name))
    if len(files) == 1:
        return files[0]
    if not files:
        raise PseudopotentialError(f"no file for {element} in {folder}; put {element}.upf there, or name another file")
    names = ", ".join(path.name for path in files)
    raise PseudopotentialError(f"several files for {element} in {folder} ({names}); name one of them")


def _functional(said: str) -> str:
    name = " ".join(said.replace("-", " ").upper().split())
    return SYNONYMS.get(name, name)


def _beside(path: Path) -> float | None:
    """What PseudoDojo's table beside a file suggests (its "normal" hint, Hartree), as Ry."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        table = tomllib.loads(path.with_suffix(".toml").read_text(encoding="utf-8"))
        return float(table["cutoffs_normal"]["Ecut"]) * RYDBERGS_PER_HARTREE
    return None


def _positive(text: str) -> float | None:
    with suppress(ValueError):
        number = float(text.replace("D", "E"))
        return number if number > 0 else None
    return None
