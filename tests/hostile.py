"""Run directories that are broken, or made by somebody who wishes us ill: a small finished run, changed at random.

    for words in spoil(run, np.random.default_rng([1, number])): ...

Whoever writes a run directory can write fitting checksums, so these are written anew after each change.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from csp_al.files import SEAL, DamagedError, seal, sha256

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b1m\r"
VALUES: tuple[Any, ...] = (
    None, True, "", ESCAPE, "nan", -1, 0, 2**31, 10**18, 10**30, 10**400, 1e308, float("nan"), float("inf"), [], [[]],
    {}, {"": 1}, "../../owned", "/owned", "a" * 5000, "\0", "\ud800",
)  # fmt: skip
HEADERS = (
    "Properties=species:S:1:pos:R:3000000000", "Properties=species:S:1:pos:R:3:forces:R:900000000", "Properties=",
    "Properties=species:S:1:pos:R:-3", 'Lattice="0 0 0 0 0 0 0 0 0"', 'Lattice="1e308 0 0 0 1e308 0 0 0 1e308"',
    "energy=nan", "id=owned", "id=99999999999999999999", f"note={ESCAPE}", 'stress="1 2"', "atoms=1", "pbc=x",
)  # fmt: skip
LARGE = 10**7
PRECIOUS = "precious"
"""File beside the run directory that links lead to; nobody may write it."""
Spoil = Callable[[Path, np.random.Generator], str]


def spoil(run: Path, rng: np.random.Generator) -> Iterator[str]:
    """Change one to three things in a run directory, which is ours; what was done, in words."""
    for _ in range(rng.integers(1, 4)):
        how = _choice(rng, HOW)
        with suppress(OSError, ValueError, LookupError, RuntimeError):  # it was spoilt before
            yield how(run, rng)
        forge(run)


def _choice(rng: np.random.Generator, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def _files(run: Path, *patterns: str) -> list[Path]:
    """Those that can be changed without harm: no links, which would be written through, and none of holes."""
    found = (path for pattern in patterns for path in run.rglob(pattern))
    return sorted(path for path in found if path.is_file() and not path.is_symlink() and path.stat().st_size < LARGE)


def forge(run: Path) -> None:
    """Write the checksums of all stages anew."""
    whole = set(_files(run, "*"))
    for path in sorted(path for path in whole if path.name == "manifest.json"):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, DamagedError):
            content = json.loads(path.read_text())
            there = {name: sha256(path.parent / name) for name in content["files"] if path.parent / name in whole}
            _write_sealed(path, content | {"files": content["files"] | there})


def _write_sealed(path: Path, content: Any) -> None:
    """With its seal, where there was one and it is an object still."""
    if isinstance(content, dict) and content.pop(SEAL, None):
        path.write_text(seal(content))
    else:
        path.write_text(json.dumps(content))


def _json(run: Path, rng: np.random.Generator) -> str:
    path = _choice(rng, _files(run, "*.json"))
    content = json.loads(path.read_text())
    nodes = list(_nodes(content))
    if not nodes or rng.random() < 0.05:
        _write_sealed(path, value := _choice(rng, VALUES))
        return f"{path}: {value!r:.40}"
    parent, key = _choice(rng, nodes)
    if rng.random() < 0.3:
        del parent[key]
        what = f"without {key}"
    else:
        parent[key] = _choice(rng, VALUES)
        what = f"{key}: {parent[key]!r:.40}"
    _write_sealed(path, content)
    return f"{path}: {what}"


def _nodes(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every value within lists and objects, as what holds it and its key there; not the checksum."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        if key != SEAL:
            yield content, key
            yield from _nodes(value)


def _table(run: Path, rng: np.random.Generator) -> str:
    path = _choice(rng, _files(run, "*.csv"))
    rows = [line.split(",") for line in path.read_text().splitlines()]
    column, row = int(rng.integers(len(rows[0]))), int(rng.integers(len(rows)))
    match int(rng.integers(5)):
        case 0:
            rows = [cells[:column] + cells[column + 1 :] for cells in rows]
        case 1:
            rows = rows[:row]
        case 2:
            rows = [*rows, *rows[1:]]
        case 3:
            rows = [cells + ["x"] * 50_000 for cells in rows]
        case 4:
            rows[row][column] = str(_choice(rng, VALUES[:-1])) if rng.random() < 0.9 else "9" * 10_000
    path.write_text("\n".join(map(",".join, rows)) + "\n")
    return f"{path}: column {column}, row {row}"


def _arrays(run: Path, rng: np.random.Generator) -> str:
    path = _choice(rng, _files(run, "*.h5"))
    with h5py.File(path, "a") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        name = _choice(rng, names)
        before = file[name][()]
        changed = before.copy() if before.dtype.kind != "S" else np.full(before.shape, ESCAPE.encode())
        if before.dtype.kind != "S" and changed.size:
            odd = (np.nan, np.inf, 1e308, 0, -1) if before.dtype.kind == "f" else (-1, 0, 2**62)
            changed[tuple(int(rng.integers(size)) for size in changed.shape)] = _choice(rng, odd)
        value = _choice(rng, (None, changed, changed, changed, before[:-1], before[..., None], before.astype("S9")))
        del file[name]
        if value is not None:
            file[name] = value
        elif rng.random() < 0.5:
            file[name] = h5py.ExternalLink(str(run.parent / PRECIOUS), "/x")
    return f"{path}: {name}"


def _crystals(run: Path, rng: np.random.Generator) -> str:
    (path,) = _files(run, "winners.extxyz")
    lines = path.read_text().splitlines()
    match int(rng.integers(4)):
        case 0 | 1:
            header = _choice(rng, HEADERS)
            lines[1] += f" {header}"
        case 2:
            header = _choice(rng, ("0", "99999999999", "9" * 5000, "-1", "x", ESCAPE))
            lines[0] = header
        case _:
            words = lines[2].split()
            words[int(rng.integers(len(words)))] = header = _choice(rng, ("Xx", ESCAPE, "nan", "1e999", ""))
            lines[2] = " ".join(words)
    path.write_text("\n".join(lines) + "\n")
    return f"{path}: {header:.60}"


def _file(run: Path, rng: np.random.Generator) -> str:
    path = _choice(rng, _files(run, "*"))
    content = path.read_bytes()
    path.unlink()
    what = _choice(rng, ("gone", "link", "pipe", "folder", "empty", "cut", "noise", "holes", "deep", "swapped"))
    match what:
        case "link":
            path.symlink_to(_choice(rng, (run.parent / PRECIOUS, "/dev/zero", path.name, "..")))
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(content[: int(rng.integers(len(content) + 1))])
        case "noise":
            path.write_bytes(rng.bytes(300))
        case "holes":
            with path.open("wb") as file:
                file.truncate(10**13)
        case "deep":
            path.write_text("[" * 100_000)
        case "swapped":
            path.write_bytes(_choice(rng, _files(run, f"*{path.suffix}") or [run / "resolved.json"]).read_bytes())
    return f"{path}: {what}"


def _folder(run: Path, rng: np.random.Generator) -> str:
    name = _choice(rng, ("cycle-07", f"cycle-{'9' * 200}", f"cycle-02{ESCAPE}", "winners.partial", "cycle-٠٣"))
    (run / name / _choice(rng, ("label", "verdict", "select.partial"))).mkdir(parents=True, exist_ok=True)
    return name


def _log(run: Path, rng: np.random.Generator) -> str:
    line = {"time": _choice(rng, ("2026-01-01T00:00:00+00:00", "x", 3)), "event": _choice(rng, (ESCAPE, "failed", [])),
            "reason": _choice(rng, VALUES)}  # fmt: skip
    (path,) = _files(run, "log.jsonl")
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    return f"log: {line['reason']!r:.40}"


def _lock(run: Path, rng: np.random.Generator) -> str:
    claim = {"host": ESCAPE, "pid": 1, "start": "x", "token": ESCAPE, "since": ESCAPE, "folder": None}
    claim[_choice(rng, list(claim))] = _choice(rng, VALUES)
    (run / "LOCK").unlink(missing_ok=True)
    (run / "LOCK").write_text(json.dumps(claim))
    return "LOCK"


HOW: tuple[Spoil, ...] = (_json, _json, _json, _table, _arrays, _crystals, _file, _file, _folder, _log, _lock)
