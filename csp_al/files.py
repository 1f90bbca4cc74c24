"""Files that are whole or not there, and that say when they are no longer what was written.

    write_sealed(Path("result.json"), "result", {"energy": -1.0})
    read_sealed(Path("result.json"), "result")

A file is written aside, flushed to disk and renamed; a sealed one holds its format and the checksum of its own content.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from pydantic import TypeAdapter, ValidationError

from csp_al.formats import VERSIONS, Kind, readable, upgrade

SEAL = "sha256"
HOLLOW: Final = (64_000_000, 100)
"""Bytes from which on a file must fill its hundredth part of the disk at least: holes take no room but in memory."""
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")

T = TypeVar("T")


class DamagedError(Exception):
    """A file is missing, or is not what was written; the message names it and says what to do."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        super().__init__(
            f"{path}: {what}. Continue with --repair: it sets aside what is damaged, and does that again from what is "
            "whole"
        )


class OtherVersionError(Exception):
    """A file was written by another version of csp_al; the message names it and says what to do."""

    def __init__(self, path: Path, written: object, kind: Kind) -> None:
        known = readable(kind)
        reads = f"{known[0]} to {known[-1]}" if len(known) > 1 else known[0]
        super().__init__(
            f"{path}: format {written}, this version of csp_al reads {reads}; go on with the version that wrote it, or "
            "begin again under another name"
        )


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole: a reader, or a power cut, meets the old content or the new one, never a part.

    The content goes to a temporary name in the same folder, which must exist; file and folder are flushed to disk.
    """
    with written_aside(path, content.encode() if isinstance(content, str) else content) as aside:
        aside.replace(path)
    sync_directory(path.parent)


@contextmanager
def written_aside(path: Path, content: bytes) -> Iterator[Path]:
    """A new file beside the path, flushed to disk, which is gone afterwards unless it was renamed.

    Its name can be neither guessed nor met twice, so that nothing that is there is written to.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with aside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        aside.unlink(missing_ok=True)


def forget_temporaries(folder: Path) -> None:
    """Remove what killed writers left in a folder; for whoever alone may write there now."""
    for path in folder.glob(".*.tmp"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """Make a directory, and those above it, that outlive a power cut; one that is there is left alone."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Flush the names in a directory to disk, so that a rename in it outlives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_plain(path: Path) -> BufferedReader:
    """A regular file, opened to be read. Raises FileNotFoundError, DamagedError for a link, a pipe, a folder, holes.

    A directory that somebody else made may hold these, and they would lead elsewhere, or never end.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if path.is_symlink():
            raise DamagedError(path, "a symbolic link, where a file was written") from error
        raise
    found = os.fstat(handle)
    wrong = "" if stat.S_ISREG(found.st_mode) else "no regular file"
    few_blocks = found.st_size > max(HOLLOW[0], HOLLOW[1] * 512 * found.st_blocks)
    if not wrong and few_blocks and _is_hollow(handle, found.st_size):
        wrong = f"{found.st_size} bytes of which hardly any were written"
    if wrong:
        os.close(handle)
        raise DamagedError(path, wrong)
    return os.fdopen(handle, "rb")


def _is_hollow(handle: int, size: int) -> bool:
    """Whether less than the hundredth part of an opened file was written, the rest being holes.

    Blocks alone do not tell: ZFS counts those of a new file seconds later, and some network file systems none at all.
    """
    written = at = 0
    try:
        while HOLLOW[1] * written < size:
            begin = os.lseek(handle, at, os.SEEK_DATA)
            at = os.lseek(handle, begin, os.SEEK_HOLE)
            written += at - begin
    except OSError as error:
        if error.errno != errno.ENXIO:  # that is the end; any other means that this file system does not tell
            return False
    finally:
        os.lseek(handle, 0, os.SEEK_SET)
    return HOLLOW[1] * written < size


def read_plain(path: Path) -> bytes:
    """Content of a regular file. Raises as `open_plain`."""
    with open_plain(path) as file:
        return file.read()


def read_json(path: Path, record: TypeAdapter[T]) -> T:
    """What a JSON file holds, with all keys and types of the record, and numbers that are finite.

    Raises as `open_plain`, and DamagedError where it holds anything else.
    """
    try:
        content = json.loads(read_plain(path), parse_constant=_refuse_constant, parse_float=_finite_float)
    except (ValueError, RecursionError) as error:
        raise DamagedError(path, f"not readable ({type(error).__name__})") from error
    return validated(record, content, path)


def validated(record: TypeAdapter[T], content: Any, path: Path) -> T:
    """The content of a file as a record. Raises DamagedError with the first key that does not fit."""
    try:
        return record.validate_python(content)
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, found["loc"]))[:100]
        what = found["msg"].removeprefix("Value error, ")
        raise DamagedError(path, f"{f'{where}: ' if where else ''}{what}") from error


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number beyond all numbers")
    return value


def sha256(path: Path) -> str:
    """Checksum of a regular file's content, in hex. Raises as `open_plain`."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: Any) -> str:
    """Checksum of a JSON value, in hex, whatever the order of its keys and the space between them."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def seal(content: Mapping[str, Any], indent: int | None = None) -> str:
    """A JSON object with its own checksum, as text."""
    return json.dumps({**content, SEAL: digest(dict(content))}, indent=indent, allow_nan=False)


def unseal(text: str | bytes) -> dict[str, Any]:
    """The object of `seal`. Raises ValueError for any other text."""
    try:
        content: dict[str, Any] = json.loads(text)
        checksum = content.pop(SEAL)
        whole = bool(checksum == digest(content))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("not readable") from error
    if not whole:
        raise ValueError("its checksum differs from the one it was written with")
    return content


def write_sealed(path: Path, kind: Kind, content: Mapping[str, Any], indent: int | None = None) -> None:
    """Write a JSON object in the newest format of its kind, with its own checksum, atomically."""
    write_atomically(path, seal({"format": VERSIONS[kind], **content}, indent) + "\n")


def read_sealed(path: Path, kind: Kind) -> dict[str, Any]:
    """What `write_sealed` wrote, by this version or an older one whose format it knows.

    Raises FileNotFoundError, DamagedError, and OtherVersionError for another format.
    """
    return upgraded(path, kind, *read_as_written(path, kind))


def upgraded(path: Path, kind: Kind, version: int, content: T) -> T:
    """What `read_as_written` gave, or more that belongs to it, as of this version. Raises DamagedError."""
    try:
        return upgrade(kind, version, content)
    except Exception as error:  # a stranger's content may be anything, and what upgrades ask may fail at it in any way
        raise DamagedError(path, f"not readable ({type(error).__name__})") from error


def read_as_written(path: Path, kind: Kind) -> tuple[int, dict[str, Any]]:
    """Version and content of a sealed file that is upgraded together with another. Raises as `read_sealed`."""
    text = read_plain(path)
    try:
        content = unseal(text)
    except ValueError as error:
        written = _unsealed_format(text)
        if written is not None and written not in readable(kind):
            raise OtherVersionError(path, written, kind) from error
        raise DamagedError(path, str(error)) from error
    version = content.pop("format", None)
    if type(version) is not int or version not in readable(kind):
        raise OtherVersionError(path, version, kind)
    return version, content


def _unsealed_format(text: bytes) -> int | None:
    """The format that a file without a seal names, as files did before there were seals."""
    try:
        content = json.loads(text)
        return None if SEAL in content else int(content["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def write_json(path: Path, content: Any) -> None:
    """Write JSON, atomically; what is not finite becomes null, since JSON has no word for it."""
    write_atomically(path, json.dumps(finite(content), indent=1, allow_nan=False) + "\n")


def finite(content: Any) -> Any:
    """JSON values with null for every number that is not finite."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
