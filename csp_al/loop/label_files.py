"""A source of labels from elsewhere: a run directory, a file that ASE reads, or a folder of outputs of pw.x and VASP.

What is no label, a frame without stress or whose electrons did not converge, is left out and told; what says that a
source is not what it is taken for is a fault: another element, keys that may be meant in two ways, nothing usable.

    source = read_source(campaign.labels[0], folder, campaign)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from csp_al.campaign import AnyReference, Campaign, species_counts
from csp_al.campaign.models import LabelFile
from csp_al.disk_space import is_machine_failure
from csp_al.engine.tasks import LIMITS
from csp_al.files import DamagedError, OtherVersionError
from csp_al.kinds import REFERENCES
from csp_al.loop.label_keys import UnclearKeysError, labelled_frame
from csp_al.reference import outcar, pw_frames, vasprun
from csp_al.reference.frames import Frame
from csp_al.reference.pw_output import why_no_result
from csp_al.reference.references import places
from csp_al.reference.sanity import not_finite
from csp_al.store.changes import differences
from csp_al.store.layout import LABELS, folders_of
from csp_al.store.run_directory import SETTINGS, NoRunError, read_campaign_of
from csp_al.store.stages import verify
from csp_al.structure_files import BROKEN, open_plain, plain_name, read_structures, read_text
from csp_al.structures import Floats, concatenate

if TYPE_CHECKING:
    from ase import Atoms

BEGINNING: Final = 50_000  # bytes of an output in which its program gives its name, behind whatever the launcher says
SHOWN: Final = 10  # places that a message names for one reason
SIGNS: Final[Mapping[str, bytes]] = {"pw": b"Program PWSCF", "vasprun": b"<modeling>", "outcar": b"POTCAR:"}
"""What is in the beginning of an output of each kind."""


@dataclass(frozen=True)
class Found:
    """One label: energy eV, forces (N, 3) eV/Å, stress (3, 3) eV/Å^3, and where it stands, in words.

    Labels of one ``crystal`` resemble one another, so that a potential must not be validated on one of them and
    trained on another.
    """

    atoms: Atoms
    energy: float
    forces: Floats
    stress: Floats
    place: str
    crystal: str


@dataclass
class Source:
    """What one entry of the campaign file's labels has; ``known`` if its settings are known to be the campaign's.

    ``left_out`` are the places of what is no label, by reason, and ``faults`` what must be mended, each in one line;
    ``keys`` are those that values stood under where they are not the usual ones.
    """

    name: str
    known: bool
    found: list[Found] = field(default_factory=list)
    frames: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)
    unused_files: dict[str, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def leave_out(self, place: str, reason: str) -> None:
        """Note a frame that is no label."""
        self.left_out.setdefault(reason, []).append(place)

    @property
    def remarks(self) -> str:
        """What is no label, by reason, with its places, and keys that are not the usual ones; empty if nothing."""
        count = sum(map(len, self.left_out.values()))
        said = [f"labels taken from {keys}" for keys in sorted(self.keys)]
        if count:
            reasons = "; ".join(f"{len(places)} {reason} ({_some(places)})" for reason, places in self.left_out.items())
            are = "are no labels" if count > 1 else "is no label"
            said.append(f"{count} of {_counted(self.frames, 'frame')} {are}: {reasons}")
        if self.unused_files:
            files = [f"{file}: {reason}" for file, reason in self.unused_files.items()]
            said.append(f"{_counted(len(files), 'file')} without a frame ({_some(files)})")
        return "; ".join(said)


def read_source(file: LabelFile, folder: Path, campaign: Campaign) -> Source:
    """All labels of an entry, whose path is relative to the folder, told by the name that it has there."""
    path = folder / file.path
    source = Source(file.path, known=False)
    try:
        source.known = (path / SETTINGS).is_file()
        if source.known and file.keys:
            source.faults.append(f"{file.path} is a run directory, which has no keys; leave {', '.join(file.keys)} out")
        elif source.known:
            source.found.extend(_of_run(file.path, path, campaign.reference))
        else:
            _add_files(source, path, file.keys)
    except ValueError as error:
        source.faults.append(str(error))
    except OSError as error:
        if is_machine_failure(error) and not isinstance(error, PermissionError):
            raise
        source.faults.append(f"{source.name} cannot be read ({error.filename}: {error.strerror})")
    if not (source.found or source.faults):
        said = source.remarks or "no structure in it"
        needs = "; a label has energy, forces and stress (pw.x: tprnfor, tstress)"
        source.faults.append(f"{source.name} holds no labels: {said}{needs}")
    source.faults.extend(_foreign(source, campaign.pool.formula))
    return source


def _some(places: list[str], between: str = "; ") -> str:
    """Those that a message has room for; the name of a file is said once for several frames of it."""
    shown = [
        place.replace(f"{before.rpartition(', ')[0]}, ", "") if index and ", frame " in place else place
        for index, (before, place) in enumerate(zip(["", *places], places[:SHOWN], strict=False))
    ]
    rest = len(places) - SHOWN
    return between.join(shown) + (f"{between}and {rest} more" if rest > 0 else "")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _foreign(source: Source, formula: str) -> Iterator[str]:
    """Labels with elements that the pool has not, each combination of them once."""
    places: dict[str, list[str]] = {}
    for label in source.found:
        if foreign := sorted(set(label.atoms.symbols) - set(species_counts(formula))):
            places.setdefault(", ".join(foreign), []).append(label.place)
    for foreign_species, where in places.items():
        others = f" (and {_counted(len(where) - 1, 'label')} more)" if len(where) > 1 else ""
        yield f"{where[0]}: {foreign_species} is not in pool.formula, {formula}{others}; leave these labels out"


def _of_run(name: str, path: Path, reference: AnyReference) -> Iterator[Found]:
    """The usable labels of a run, if its reference section differs from this one in its limits at most."""
    try:
        aside = {*LIMITS, *places(reference)}
        theirs, ours = (section.model_dump(mode="json") for section in (_reference_of(path, reference), reference))
        found = differences(_without(theirs, aside), _without(ours, aside))
        changes = [f"{key}: {words}" for key, words in found.items()]
        folders = folders_of(path, "label").values()
        for folder in folders:
            verify(folder)
        labels = concatenate([LABELS.read(folder) for folder in folders]) if folders else None
    except (NoRunError, DamagedError, OtherVersionError) as error:
        raise ValueError(str(error)) from error
    if changes:
        msg = (
            f"{name} was labelled with another reference section ({'; '.join(changes)}); take the same one here, "
            "or leave the run out; where the labels should agree all the same, name the file that `csp-al export DIR "
            "--what labels --format extxyz` writes, of which two are computed again"
        )
        raise ValueError(msg)
    if labels is None or not len(labels.usable):
        msg = f"{name} has no usable labels yet; leave it out, or wait for its first cycle"
        raise ValueError(msg)
    usable = labels.usable
    ptr, ids = usable.structures.ptr, usable.structures.ids
    for row, atoms in enumerate(usable.structures.to_atoms()):
        forces = usable.forces[ptr[row] : ptr[row + 1]]
        place = f"{name}, cycle {usable.cycle[row]}, id {ids[row]}"
        yield Found(atoms, float(usable.energy[row]), forces, usable.stress[row], place, f"{name}, id {ids[row]}")


def _reference_of(run: Path, reference: AnyReference) -> AnyReference:
    return read_campaign_of(run, trust=[(REFERENCES, reference.kind)]).reference


def _without(section: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in keys}


def _add_files(source: Source, path: Path, keys: dict[str, str]) -> None:
    """Read a file, or all outputs in a folder, of which those that hold no label are passed over."""
    if not path.is_dir():
        try:
            frames = list(_frames(path, _kind(path), keys))
        except UnclearKeysError as error:
            raise ValueError(f"{source.name}, {error}") from error
        except ValueError as error:
            raise ValueError(f"{source.name} cannot be read ({error}); mend it or leave it out") from error
        _add_frames(source, source.name, frames, is_one_crystal=False)
        if not frames:
            source.unused_files[source.name] = _why_no_frame(path)
        return
    if keys:
        raise ValueError(f"{source.name} is a folder of outputs, which have no keys; leave {', '.join(keys)} out")
    outputs = [(file, kind) for file in sorted(path.rglob("*")) if _may_be_output(file) and (kind := _kind(file))]
    if not outputs:
        msg = (
            f"{source.name} is no run directory and holds no outputs of pw.x (*.out, *.pwo, *.log) or VASP "
            "(vasprun*.xml, OUTCAR; also .gz, .bz2, .xz); name the files themselves"
        )
        raise ValueError(msg)
    for file, kind in outputs:
        name = f"{source.name}/{file.relative_to(path)}"
        try:
            frames = list(_frames(file, kind, {}))
        except ValueError as error:
            source.unused_files[name] = str(error)
            continue
        if not frames:
            source.unused_files[name] = _why_no_frame(file)
        _add_frames(source, name, frames, is_one_crystal=True)  # a relaxation's steps resemble one another


def _add_frames(source: Source, name: str, frames: list[Frame], *, is_one_crystal: bool) -> None:
    source.frames += len(frames)
    for number, frame in enumerate(frames):
        place = f"{name}, frame {number}"
        found = _label(frame, place, name if is_one_crystal else place)
        if isinstance(found, str):
            source.leave_out(place, found)
        else:
            source.found.append(found)
            source.keys |= {frame.keys} - {""}


def _may_be_output(path: Path) -> bool:
    """By its name; an OUTCAR beside a vasprun.xml says the same with fewer digits."""
    if not path.is_file():
        return False
    name = plain_name(path)
    if name.startswith("OUTCAR"):
        return not any(path.parent.glob("vasprun*.xml*"))
    return name.endswith((".out", ".pwo", ".log")) or (name.startswith("vasprun") and name.endswith(".xml"))


def _kind(path: Path) -> str:
    """What wrote a file, by its beginning or its name; empty for what is left to ASE, or a scheduler's log."""
    try:
        with open_plain(path) as file:
            said = file.read(BEGINNING)
    except BROKEN:
        said = b""
    by_name = (kind for kind in ("vasprun", "outcar") if plain_name(path).lower().startswith(kind))
    return next((kind for kind, sign in SIGNS.items() if sign in said), next(by_name, ""))


def _frames(path: Path, kind: str, keys: dict[str, str]) -> Iterator[Frame]:
    """All frames of a file. Raises ValueError in words, or UnclearKeysError with the frame."""
    if kind and keys:
        raise ValueError(f"an output of {'pw.x' if kind == 'pw' else 'VASP'} has no keys; leave {', '.join(keys)} out")
    match kind:
        case "pw":
            yield from pw_frames.frames_in(read_text(path))
        case "vasprun":
            yield from vasprun.frames_in(path)
        case "outcar":
            yield from outcar.frames_in(read_text(path))
        case _:
            for number, atoms in enumerate(read_structures(path)):
                try:
                    yield (
                        Frame(None, wrong=f"unreadable ({atoms})")
                        if isinstance(atoms, str)
                        else labelled_frame(atoms, keys)
                    )
                except UnclearKeysError as error:
                    raise UnclearKeysError(f"frame {number}: {error}") from error


def _why_no_frame(path: Path) -> str:
    """Why an output has not even begun a single point."""
    if _kind(path) != "pw":
        return "no step in it"
    text = read_text(path)
    return str(why_no_result(text, "", 0 if "JOB DONE" in text else 1) or "no single point in it")


def _label(frame: Frame, place: str, crystal: str) -> Found | str:
    """What a frame says, or why it is no label of a crystal."""
    atoms, energy, forces, stress = frame.atoms, frame.energy, frame.forces, frame.stress
    if frame.wrong or atoms is None or energy is None or forces is None or stress is None:
        return frame.wrong
    if not (atoms.pbc.all() and len(atoms)):
        return "not periodic in three directions"
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        return "with positions or a cell that are not finite"
    if atoms.cell.volume < 1e-3:
        return "without a periodic cell"
    if reason := not_finite(energy, forces, stress):
        return str(reason)
    return Found(atoms, energy, forces, stress, place, crystal)
