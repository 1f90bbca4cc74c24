"""PAW datasets of VASP: where ASE and pymatgen keep them, of which element, and with which cutoff.

    found = find(Path("potcars"), "PBE", ["Na", "Cl"], {"Na": "Na_pv"})
    max(potcar.enmax for potcar in found.values())

Below the folder they lie as ``potpaw_PBE/Na_pv/POTCAR`` (VASP's own archives, ASE) or ``POT_GGA_PAW_PBE/POTCAR.Na_pv``
(pymatgen), compressed or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from csp_al.structure_files import COMPRESSED, read_text

FOLDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "PBE": ("potpaw_PBE", "POT_GGA_PAW_PBE"),
    "LDA": ("potpaw_LDA", "potpaw", "POT_LDA_PAW"),
}
"""Names of the folders of a family without a version; with one they end in .54, _54 and the like."""

ELEMENT: Final = re.compile(r"VRHFIN\s*=\s*([A-Z][a-z]?)\s*:")
TITLE: Final = re.compile(r"TITEL\s*=\s*(.*)")
CUTOFF: Final = re.compile(r"ENMAX\s*=\s*([\d.]+)")
FUNCTIONAL: Final = re.compile(r"LEXCH\s*=\s*(\w+)")


class PotcarError(Exception):
    """A dataset that is missing or not what it should be; the message says which, and what to do."""


@dataclass(frozen=True)
class Potcar:
    """What the header of a POTCAR says; enmax is the cutoff (eV) that it asks for."""

    path: Path
    element: str
    title: str
    functional: str
    enmax: float


def find(folder: Path, family: str, elements: Iterable[str], setups: Mapping[str, str]) -> dict[str, Potcar]:
    """The dataset of each element: the one that is named, else the one that is called as the element itself.

    Raises PotcarError for an element without a file, and for a file of another element.
    """
    if not folder.is_dir():
        raise PotcarError(f"there is no folder {folder}")
    return {element: _read_as(element, _file_of(setups.get(element, element), folder, family)) for element in elements}


def read(path: Path) -> Potcar:
    """The header of one dataset. Raises PotcarError for a file that has none, or several datasets."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise PotcarError(f"{path} cannot be read ({error})") from error
    said = [pattern.findall(text) for pattern in (ELEMENT, TITLE, FUNCTIONAL, CUTOFF)]
    if not all(said):
        raise PotcarError(f"{path} is no POTCAR: it lacks VRHFIN, TITEL, LEXCH or ENMAX")
    if len(said[0]) > 1:
        raise PotcarError(f"{path} has datasets of {', '.join(said[0])}; one of one element is expected")
    element, title, functional, enmax = (found[0] for found in said)
    return Potcar(path, element, " ".join(title.split()), functional, float(enmax))


def _read_as(element: str, path: Path) -> Potcar:
    potcar = read(path)
    if potcar.element != element:
        raise PotcarError(f"{path} is a dataset of {potcar.element}, not of {element}")
    return potcar


def _file_of(setup: str, folder: Path, family: str) -> Path:
    names = [f"{name}{end}" for name in (f"{setup}/POTCAR", f"POTCAR.{setup}") for end in ("", *COMPRESSED)]
    places = [place for place in _places(folder, family) if place.is_dir()]
    for place in places:
        for name in names:
            if (place / name).is_file():
                return place / name
    if not places:
        looked = ", ".join(place.name for place in _places(folder, family))
        raise PotcarError(f"none of the folders {looked} is in {folder}; name another in pp, or pp: . for itself")
    looked = " and ".join(map(str, places))
    raise PotcarError(f"no POTCAR of {setup} in {looked}; name another dataset in setups, e.g. {{Na: Na_pv}}")


def _places(folder: Path, family: str) -> list[Path]:
    """A folder of the family's very name, and those that ASE and pymatgen know it by."""
    name, mark, version = re.fullmatch(r"(.*?)(?:([._])(\d\w*))?", family).groups("")  # type: ignore[union-attr]
    ends = (f".{version}", f"_{version}") if mark else ("",)
    return [
        folder / family,
        *(folder / f"{known}{end}" for known in FOLDERS.get(name.upper(), ()) for end in ends),
    ]
