"""Dataclasses of arrays in HDF5 files.

save(folder / "labels.h5", labels)
load(folder / "labels.h5", Labels)
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5i, h5l, h5o, h5s

from csp_al.files import DamagedError, OtherVersionError, read_plain
from csp_al.formats import SPECIES, VERSIONS, readable, upgrade
from csp_al.structures import PER_ATOM, Ints, Strings, Structures

TAILS: Final = {"positions": (3,), "forces": (3,), "cells": (3, 3), "stress": (3, 3)}
"""Shape of one row of an array; of those that are not named here a row is a number, of the features a vector."""

T = TypeVar("T")


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def save(path: Path, batch: Any) -> None:
    """Write a dataclass of arrays to HDF5, nested ones as groups. Raises OSError where there is no room."""
    # HDF5 itself ends in errors without a number, or in a crash, on a full disk
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        file.attrs["format"] = VERSIONS["arrays"]
        _write(file, batch)
        file.flush()
        path.write_bytes(file.id.get_file_image())


def load(path: Path, kind: type[T]) -> T:
    """Read what `save` wrote. Raises DamagedError for anything else, OtherVersionError for another format.

    Nothing of the file is believed: no link is followed, nothing larger than the file is made, shapes must agree.
    """
    content = read_plain(path)
    try:
        root = h5g.open(h5f.open_file_image(content), b"/")
        if (written := _format_of(root)) not in readable("arrays"):
            raise OtherVersionError(path, written, "arrays")
        batch = _read(upgrade("arrays", written, root), kind, len(content))
        _check_shapes(batch)
    except _WrongError as error:
        raise DamagedError(path, str(error)) from error
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise DamagedError(path, f"not readable ({type(error).__name__})") from error
    return batch


def _write(group: h5py.Group, batch: Any) -> None:
    for field in fields(batch):
        value = getattr(batch, field.name)
        if is_dataclass(value):
            _write(group.create_group(field.name), value)
        elif value.dtype.kind == "U":
            # of one length: HDF5 may look for ever for the others in a file that is not as it was written
            text = np.char.encode(value, "utf-8")
            group.create_dataset(field.name, data=text.astype(f"S{max(1, text.itemsize)}"))
        else:
            group.create_dataset(field.name, data=value)


# by h5py's low-level interface: the objects of the other take three times as long, and a run has thousands of files
def _format_of(root: h5g.GroupID) -> int:
    """The format that a file was written in; 0 where it does not say."""
    written = h5a.open(root, b"format") if h5a.exists(root, b"format") else None
    if written is None or written.shape or written.dtype.kind != "i":
        return 0
    value = np.empty((), written.dtype)
    written.read(value)
    return int(value)


def _read(group: h5g.GroupID, kind: type[T], most: int) -> T:
    hints = _hints(kind)  # type: ignore[arg-type]
    parts: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        item = _open(group, field.name.encode())
        nested = is_dataclass(hints[field.name])
        if nested != isinstance(item, h5g.GroupID):
            raise _WrongError(f"{field.name} is not what was written")
        parts[field.name] = _read(item, hints[field.name], most) if nested else _array(item, hints[field.name], most)
    return kind(**parts)


def _open(group: h5g.GroupID, name: bytes) -> Any:
    """What stands in a group itself under a name. Raises _WrongError."""
    try:
        kind = group.links.get_info(name).type
    except KeyError as error:
        raise _WrongError(f"{name.decode()} is missing") from error
    if kind != h5l.TYPE_HARD:
        raise _WrongError(f"{name.decode()} is a link")
    return h5o.open(group, name)


def _array(item: h5d.DatasetID, hint: Any, most: int) -> Any:
    """The values of a dataset that holds them itself, as they are: a few bytes could stand for a terabyte."""
    shape, dtype = item.shape, item.dtype
    if not _holds_its_own(item) or prod(shape) * dtype.itemsize > most:
        raise _WrongError(f"{_name(item)} does not hold its own values")
    is_text = hint == Strings and dtype.kind == "S"
    wanted = np.dtype(np.int64 if hint == Ints else np.float64)
    if not is_text and dtype != wanted:
        raise _WrongError(f"{_name(item)} holds {dtype}, not {wanted}")
    values = np.empty(shape, dtype)
    if values.size:
        item.read(h5s.ALL, h5s.ALL, values)
    return np.char.decode(values, "utf-8") if is_text else values


def _holds_its_own(item: h5d.DatasetID) -> bool:
    if item.get_offset() is not None:  # in one piece, in this file
        return True
    made = item.get_create_plist()
    return made.get_layout() in (h5d.CONTIGUOUS, h5d.COMPACT) and not made.get_external_count()


def _name(item: h5d.DatasetID) -> str:
    return str(h5i.get_name(item).decode(errors="replace"))


def _check_shapes(batch: Any, structures: Structures | None = None) -> None:
    """See that every array has a row for each structure, or for each atom. Raises _WrongError.

    Where no structures are told, as many as the first array of each sort has.
    """
    within = batch if isinstance(batch, Structures) else structures or _structures_of(batch)
    rows: dict[bool, int] = {} if within is None else {True: len(within.numbers), False: len(within)}
    if isinstance(batch, Structures):
        _check_pointers(batch)
    for field in fields(batch):
        value = getattr(batch, field.name)
        if is_dataclass(value):
            _check_shapes(value, within)
        elif field.name != "ptr":
            of_atoms = field.name in PER_ATOM
            _check_shape(field.name, value.shape, rows.setdefault(of_atoms, value.shape[0] if value.shape else 0))


def _check_shape(name: str, shape: tuple[int, ...], rows: int) -> None:
    tail = TAILS.get(name, ())
    as_long = len(shape) == 2 if name == "features" else shape[1:] == tail  # features are as many as a potential has
    if shape[:1] != (rows,) or not as_long:
        raise _WrongError(f"{name} has the shape {shape}, not {(rows, *tail)}")


def _structures_of(batch: Any) -> Structures | None:
    return next((value for field in fields(batch) if isinstance(value := getattr(batch, field.name), Structures)), None)


def _check_pointers(structures: Structures) -> None:
    ptr = structures.ptr
    if ptr.shape != (len(structures.ids) + 1,) or ptr[0] != 0 or ptr[-1] != len(structures.numbers):
        raise _WrongError("ptr does not say where structures begin and end")
    if (np.diff(ptr) < 1).any():
        raise _WrongError("a structure without atoms")
    if ((structures.numbers < 0) | (structures.numbers >= SPECIES)).any():
        raise _WrongError("atoms of no element")


class _WrongError(Exception):
    """What is wrong with a file's content."""
