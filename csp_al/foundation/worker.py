"""The process in which a foundation potential lives: crystals in, their energies, forces and stresses out.

    PYTHON worker.py

PYTHON may be that of another environment, in which csp_al is not installed: all that is imported here and in the
``of_*.py`` files are the standard library, numpy, ASE and the package of the model, from Python 3.9 on.

Each message on stdin and stdout is its length and then an npz file without pickles, which old and new versions of numpy
read alike; ``text`` in it is JSON. One with a text tells what to load, and is answered with what that is; the first has
one, and to send it again has the model made anew. One without is a batch. The end of stdin ends the process.

A file ``of_*.py`` has a function ``load(model, parameters, device)`` that returns three things:

- ``convert(atoms)``: the graph of a crystal, and how many bytes its evaluation takes, roughly; raises an exception for
  a crystal that the model cannot judge
- ``evaluate(graphs)``: energy (eV), forces (eV/Å) and stress (3, 3) (eV/Å^3) of each
- what it is: a dictionary of versions, files of weights by their names, elements and functional, see
  `csp_al.foundation.client.About`
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import io
import json
import os
import signal
import struct
import sys
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ase import Atoms

HEAD = struct.Struct(">Q")
"""How many bytes follow."""

FILES = {"chgnet": "of_chgnet.py", "sevennet-0": "of_sevennet.py", "sevennet-l3i5": "of_sevennet.py"}
"""Models that are known by name. All others are import paths."""

BATCH = {"cpu": (16, 500_000_000), "cuda": (512, 8_000_000_000)}
"""Crystals that are evaluated together, and bytes that this may take; a core gains nothing from larger ones."""

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def pack(text: Any, **arrays: Any) -> bytes:
    """A message, its length included: anything that JSON can hold, and arrays."""
    body = io.BytesIO()
    np.savez(body, text=np.array(json.dumps(text)), **arrays)
    return HEAD.pack(len(body.getvalue())) + body.getvalue()


def unpack(body: bytes) -> tuple[Any, dict[str, Any]]:
    """What was packed, from a message without its length. Raises ValueError for pickles, which might run anything."""
    with np.load(io.BytesIO(body), allow_pickle=False) as file:
        arrays = dict(file)
    return json.loads(str(arrays.pop("text"))), arrays


def main() -> None:
    """Load a model and answer until stdin ends."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [place for place in sys.path if Path(place).resolve() != here]  # `client` is nobody's package
    requests, answers = _take_pipes()
    _die_with_parent()
    loaded: Any = ()
    while (asked := _receive(requests)) is not None:
        what, crystals = asked
        if what is None:
            failed, arrays = _predict(*loaded, **crystals)
            _send(answers, pack(failed, **arrays))
            continue
        loaded = ()  # both may not fit
        try:
            convert, evaluate, about = _load(**what)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a model may raise anything
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            _send(answers, pack({"error": in_one_line(error), "missing": missing}))
            return
        loaded = (_of_known(convert, about["elements"]), evaluate, BATCH[what["device"].partition(":")[0]])
        del convert, evaluate
        _send(answers, pack(about))


def in_one_line(error: BaseException) -> str:
    """The kind of an error and what it says."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Stdin and stdout for us alone: models print, and what they print goes where errors go."""
    ours = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return ours


def _die_with_parent() -> None:
    """Where stdin does not end with the parent, since a fork of it has it open too; or while a batch is computed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _receive(pipe: BinaryIO) -> tuple[Any, dict[str, Any]] | None:
    """The next message; None at the end."""
    head = pipe.read(HEAD.size)
    return unpack(pipe.read(HEAD.unpack(head)[0])) if len(head) == HEAD.size else None


def _send(pipe: BinaryIO, message: bytes) -> None:
    pipe.write(message)
    pipe.flush()


def _load(
    model: str, parameters: dict[str, Any], device: str, folders: list[str], base: str | None, threads: int
) -> Any:
    """What the file of a model returns for it, with checksums in the place of files of weights.

    The folders are for import paths alone: what a model of ours imports must be that of the environment.
    """
    name = FILES.get(model, "of_calculator.py")
    files: dict[str, Path] = {}
    if model not in FILES:
        parameters, files = _with_files(parameters, base)
        sys.path += [folder for folder in folders if folder not in sys.path]
        _import_first(model.partition(".")[0], folders[:1])
    spec = importlib.util.spec_from_file_location(f"csp_al_{Path(name).stem}", Path(__file__).with_name(name))
    assert spec is not None  # it is a Python file
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    convert, evaluate, about = module.load(model, parameters, device)
    about["weights"] = {text: _sha256(file) for text, file in {**about["weights"], **files}.items()}
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    return convert, evaluate, about


def _import_first(name: str, folders: list[str]) -> None:
    """Import a module from these folders, if they have it; ASE is that of the environment, as for csp_al."""
    if name == "ase" or name in sys.modules:
        return
    spec = PathFinder.find_spec(name, folders)
    if spec is None or spec.loader is None or not spec.has_location:
        return
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


def _with_files(value: Any, base: str | None) -> tuple[Any, dict[str, Path]]:
    """Keywords in which names of what exists are whole paths, and the files among that by their names as given.

    Names may be relative to the base, if there is one.
    """
    if isinstance(value, dict):
        found = {key: _with_files(each, base) for key, each in value.items()}
        return {key: each for key, (each, _) in found.items()}, _joined(files for _, files in found.values())
    if isinstance(value, list):
        parts = [_with_files(each, base) for each in value]
        return [each for each, _ in parts], _joined(files for _, files in parts)
    if isinstance(value, str) and value:
        # a text that is too long for a name, or holds what none may, or the home of nobody
        with suppress(OSError, ValueError, RuntimeError):
            path = Path(base or "", Path(value).expanduser())
            if path.is_absolute() and path.exists():
                return str(path), {value: path} if path.is_file() else {}
    return value, {}


def _joined(parts: Iterable[dict[str, Path]]) -> dict[str, Path]:
    return {text: file for files in parts for text, file in files.items()}


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with Path(file).open("rb") as opened:
        while part := opened.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _of_known(convert: Any, elements: list[str] | None) -> Any:
    """Convert crystals of these elements; of others a model would say something all the same."""

    def checked(atoms: Atoms) -> Any:
        unknown = set() if elements is None else set(atoms.get_chemical_symbols()) - set(elements)
        if unknown:
            raise ValueError(f"the model has never seen {', '.join(sorted(unknown))}")
        return convert(atoms)

    return checked


def _predict(
    convert: Any, evaluate: Any, limits: tuple[int, int], numbers: Any, positions: Any, cells: Any, ptr: Any
) -> tuple[list[tuple[int, str]], dict[str, Any]]:
    """The rows that failed, each with its reason, and what was predicted: there, and only there, NaN for sure."""
    from ase import Atoms

    energy, forces = np.full(len(cells), np.nan), np.full((len(numbers), 3), np.nan)
    stress = np.full_like(cells, np.nan)
    atoms_of = [slice(ptr[row], ptr[row + 1]) for row in range(len(cells))]
    crystals = [Atoms(numbers[a], positions[a], cell=cells[row], pbc=True) for row, a in enumerate(atoms_of)]
    failed: dict[int, str] = {}
    for batch in _batches(convert, crystals, limits, failed):
        for row, result in _evaluate(evaluate, batch, failed).items():
            energy[row], forces[atoms_of[row]], stress[row] = result
    return sorted(failed.items()), {"energy": energy, "forces": forces, "stress": stress}


def _batches(
    convert: Any, crystals: list[Atoms], limits: tuple[int, int], failed: dict[int, str]
) -> Iterator[dict[int, Any]]:
    """Graphs by row, as many at a time as the limits allow; what cannot be converted has failed."""
    most, most_bytes = limits
    batch: dict[int, Any] = {}
    total = 0
    for row, atoms in enumerate(crystals):
        try:
            graph, size = convert(atoms)
        except Exception as error:  # noqa: BLE001
            failed[row] = in_one_line(error)
            continue
        if batch and (len(batch) == most or total + size > most_bytes):
            yield batch
            batch, total = {}, 0
        batch[row] = graph
        total += size
    if batch:
        yield batch


def _evaluate(evaluate: Any, batch: dict[int, Any], failed: dict[int, str]) -> dict[int, Any]:
    """Results by row; where a batch fails each of it is tried alone."""
    try:
        results = evaluate(list(batch.values()))
        return {row: results[place] for place, row in enumerate(batch)}
    except Exception as error:  # noqa: BLE001
        if len(batch) == 1:
            failed[next(iter(batch))] = in_one_line(error)
            return {}
    alone = [_evaluate(evaluate, {row: graph}, failed) for row, graph in batch.items()]
    return {row: result for one in alone for row, result in one.items()}


if __name__ == "__main__":
    main()
