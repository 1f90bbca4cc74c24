"""Files of structures as people bring them: whatever ASE reads, and what is wrong with a file in our words.

    for atoms in read_structures(path):  # ase.Atoms, or a text that says why this frame is none

ASE's readers end with whatever Python makes of a file that is not what they took it for, so what they say is not passed
on. Two formats are gone through here: extxyz frame by frame, since one that is cut off still holds all frames but its
last, and CIF, of whose disorder ASE makes a full crystal.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import IO, Any, Final, cast

from ase import Atoms
from ase.io import read
from ase.io.cif import CIFBlock, parse_cif
from ase.io.extxyz import key_val_str_to_dict
from ase.io.formats import UnknownFileTypeError, filetype, ioformats
from ase.spacegroup import Spacegroup, crystal

COMPRESSED: Final[Mapping[str, Callable[..., Any]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
BROKEN: Final = (OSError, EOFError, lzma.LZMAError)
"""What reading a file may end with, one that is compressed and cut off too."""
TENSORS: Final = re.compile(r"(?<![\w-])(stress|virial)(?=\s*=)")
"""Keys of extxyz that ASE takes for matrices of nine numbers, and fails where they have six."""
OUR_NAME: Final = "csp_al_"
DIGITS: Final = 9  # of a number of atoms
FULL: Final = 0.999
"""Occupancy of a site from which on it counts as full."""
OPERATIONS: Final = (
    "_space_group_symop_operation_xyz",
    "_space_group_symop.operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
)
GROUP_NAMES: Final = (
    "_space_group.it_number", "_space_group_it_number", "_symmetry_int_tables_number", "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m", "_space_group.patterson_name_h-m", "_symmetry_space_group_setting",
)  # fmt: skip
SETTING: Final = re.compile(r"(.*\S)\s*(?::\s*|\s)([12HRSZ])$")
"""What is said of a group's origin or axes behind its name."""
TWO_ORIGINS: Final = frozenset(
    {48, 50, 59, 68, 70, 85, 86, 88, 125, 126, 129, 130, 133, 134, 137, 138, 141, 142, 201, 203, 222, 224, 227, 228}
)
"""Space groups that the International Tables describe from two origins (vol. A, 2016)."""


def open_plain(path: Path) -> IO[bytes]:
    """A file as it was before it was compressed, if it was; name.gz, .bz2 and .xz are."""
    return cast("IO[bytes]", COMPRESSED.get(path.suffix, open)(path, "rb"))


def plain_name(path: Path) -> str:
    """The name of a file before it was compressed."""
    return path.stem if path.suffix in COMPRESSED else path.name


def read_text(path: Path) -> str:
    """All that can be read of a text; a byte that is no UTF-8 stands in a comment or a path, and harms nothing.

    What is left of a compressed file that is cut off is read too. Raises ValueError in words.
    """
    parts: list[bytes] = []
    try:
        with open_plain(path) as file:
            while part := cast("Any", file).read1(2**20):
                parts.append(part)
    except BROKEN as error:
        if not parts:
            raise ValueError(why_unreadable(error)) from error
    return b"".join(parts).decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def why_unreadable(error: Exception, kind: str = "") -> str:
    """Why a file cannot be read, in words instead of those of whoever tried."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, PermissionError):
        return "it may not be read"
    if isinstance(error, UnknownFileTypeError):
        return "it is of no format that is known"
    if isinstance(error, (ImportError, ModuleNotFoundError)):
        return f"{kind or 'its format'} needs a package that is not installed: {error}"
    return f"{f'as {kind}: ' if kind else ''}it is cut off, damaged, or of another format than its name says"


def format_of(path: Path) -> str:
    """ASE's name for the format of a file. Raises ValueError in words."""
    try:
        return str(filetype(str(path)))
    except Exception as error:
        raise ValueError(why_unreadable(error)) from error


def read_structures(path: Path) -> list[Atoms | str]:
    """All frames of a file, each its atoms, with what is known of them, or why there are none.

    Of a CIF the name of the mineral, else of the block, is ``atoms.info["name"]``. Of an extxyz all keys are in
    ``atoms.info`` and ``atoms.arrays`` or the results of ``atoms.calc``, by their names, but stress and virial, see
    `original_name`.
    Raises ValueError, in words, for a file that cannot be read at all.
    """
    kind = format_of(path)
    if kind in ("extxyz", "xyz"):
        return list(extxyz_frames(read_text(path)))
    if kind == "cif":
        return list(_cif_frames(read_text(path)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frames: list[Atoms | str] = list(read(_clean(path, kind), index=":", format=kind))
    except Exception as error:  # each of ASE's readers fails in its own way
        raise ValueError(why_unreadable(error, kind)) from error
    return frames


def original_name(key: str) -> str:
    """The name of a key in its file."""
    return key.removeprefix(OUR_NAME)


def _clean(path: Path, kind: str) -> Path | StringIO:
    """What ASE should read: a text with a byte order mark, or with bytes that are no UTF-8, without them."""
    known = ioformats[kind]
    if known.isbinary or not known.acceptsfd or path.suffix in COMPRESSED:
        return path
    data = path.read_bytes()
    try:
        is_clean = not data.startswith(b"\xef\xbb\xbf") and bool(data.decode("utf-8") or True)
    except UnicodeDecodeError:
        is_clean = False
    return path if is_clean else StringIO(read_text(path))


def extxyz_frames(text: str, parse: Callable[[str], dict[str, Any]] | None = None) -> Iterator[Atoms | str]:
    """Frame by frame, as `read_structures`; where the number of atoms of a frame is not told, the rest cannot be read.

    ``parse`` makes keys and values of a comment; by default stress and virial get other names, see `original_name`.
    Raises ValueError, in words, for a text that is no extxyz.
    """
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        first = lines[at].split()[0]
        if not first.isdecimal() or len(first) > DIGITS or len(lines[at].split()) > 1:
            words = f"line {at + 1}: a number of atoms is expected, not {lines[at].strip()[:30]!r}"
            if at == 0:
                raise ValueError(f"as extxyz: {words}")
            yield words
            return
        count = int(first)
        rows = lines[at : at + count + 2]
        yield _extxyz_frame(rows, count, at + 1, parse or _properties)
        at += count + 2


def _extxyz_frame(rows: list[str], count: int, line: int, parse: Callable[[str], dict[str, Any]]) -> Atoms | str:
    there = sum(bool(row.strip()) for row in rows[2:])
    if there < count:
        return f"line {line}: {count} atoms are announced, {there} are there"
    if count == 0:
        return f"line {line}: no atoms"

    def parsed(comment: str) -> dict[str, Any]:
        found = parse(comment)
        _refuse_columns(str(found.get("Properties", "")), rows[2])
        return found

    try:
        atoms = read(StringIO("\n".join(rows) + "\n"), index=0, format="extxyz", properties_parser=parsed)
    except Exception:  # noqa: BLE001 - ASE fails in as many ways as there are
        return f"lines {line} to {line + count + 1}: no frame of extxyz (columns that Properties announces, numbers)"
    return cast("Atoms", atoms)


def _refuse_columns(announced: str, row: str) -> None:
    """Raise ValueError where more columns are announced than a row has: ASE makes room for them before it looks."""
    counts = [int(count) for count in announced.split(":")[2::3]]
    if min(counts, default=1) < 1 or sum(counts) > len(row.split()):
        raise ValueError("columns that are not there")


def _properties(comment: str) -> dict[str, Any]:
    return cast("dict[str, Any]", key_val_str_to_dict(TENSORS.sub(rf"{OUR_NAME}\1", comment)))


def _cif_frames(text: str) -> Iterator[Atoms | str]:
    """All blocks that hold a structure."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            blocks = [block for block in parse_cif(StringIO(text)) if block.has_structure()]
    except Exception as error:
        raise ValueError(why_unreadable(error, "cif")) from error
    for block in blocks:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                crystal_or_why = _disorder(block) or _full_crystal(block)
        except Exception:  # noqa: BLE001 - as above
            crystal_or_why = f"block {block.name}: its cell, sites or space group cannot be read"
        if isinstance(crystal_or_why, Atoms):
            crystal_or_why.info["name"] = str(block.get("_chemical_name_mineral") or block.name)
        yield crystal_or_why


def _disorder(block: CIFBlock) -> str:
    """Sites that are not full, in words; empty if all are."""
    given = block.get("_atom_site_occupancy") or []
    labels = block.get("_atom_site_label") or block.get("_atom_site_type_symbol") or [""] * len(given)
    partly = [
        f"{label} {share:g}" for label, share in zip(labels, map(_occupancy, given), strict=False) if share < FULL
    ]
    if not partly:
        return ""
    more = f" and {len(partly) - 6} more" if len(partly) > 6 else ""
    return f"sites that are not fully occupied (occupancy: {', '.join(partly[:6])}{more}); a crystal has whole atoms"


def _occupancy(value: Any) -> float:
    """1 where none is told; digits in brackets are its uncertainty."""
    try:
        return float(str(value).partition("(")[0])
    except ValueError:
        return 1.0


def _full_crystal(block: CIFBlock) -> Atoms | str:
    """The crystal of a block whose sites are all full."""
    sites = block.get_unsymmetrized_structure()
    if block.get_cell().rank != 3:
        return "no periodic cell; give its lengths and angles"
    groups = _by_operations(block) if any(block.get(key) for key in OPERATIONS) else _by_name(block)
    crystals = [_crystal(sites, group) for group in groups]
    atoms = min(crystals, key=len)
    if len({str(atoms.symbols.formula.convert("hill").reduce()[0]) for atoms in crystals}) > 1:
        formulae = " or ".join(str(atoms.symbols.formula.format("metal")) for atoms in crystals)
        return (
            f"no symmetry operations, and space group {groups[0].no} is described from two origins, which give "
            f"{formulae}; write the operations into the file"
        )
    group = groups[crystals.index(atoms)]
    if sum(len(_crystal(sites[sites.symbols == symbol], group)) for symbol in set(sites.symbols)) != len(atoms):
        return "atoms of different elements on one site; a crystal has whole atoms"
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)


def _crystal(sites: Atoms, group: Spacegroup) -> Atoms:
    return crystal(sites, spacegroup=group, setting=group.setting)


def _by_operations(block: CIFBlock) -> list[Spacegroup]:
    """The group of a block's operations, whatever it is called; by its name alone where that says the same."""
    tags = {key: block[key] for key in block if key not in GROUP_NAMES}
    group = CIFBlock(block.name, tags | {"_space_group_it_number": 1}).get_spacegroup(subtrans_included=True)
    with suppress(Exception):  # a name of another school
        named = block.get_spacegroup(subtrans_included=True)
        sites = block.get_unsymmetrized_structure()
        if len(_crystal(sites, named)) == len(_crystal(sites, group)):
            return [named]
    return [group]


def _by_name(block: CIFBlock) -> list[Spacegroup]:
    """The group of a block by name or number; both, where it has two origins and the block does not say which.

    That of which the sites are the more special is meant then, if the composition is the same: who writes 0 0 0 or
    1/8 1/8 1/8 means a place of high symmetry.
    """
    tags = dict(block)
    for key in GROUP_NAMES:
        if isinstance(name := tags.get(key), str) and (found := SETTING.match(name)):  # as "F d -3 m :2"
            tags[key] = found[1]
            tags["_symmetry_space_group_setting"] = "2" if found[2] in "2RZ" else "1"
    named = CIFBlock(block.name, tags)
    group = named.get_spacegroup(subtrans_included=True)
    if "_symmetry_space_group_setting" in named or group.no not in TWO_ORIGINS:
        return [group]
    return [group, Spacegroup(group.no, 3 - group.setting)]
