"""What an import path names, looked for as Python does and then in the current folder.

find_named("ase.calculators.tersoff.Tersoff.from_lammps")
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any


class ImportPathError(ValueError):
    """An import path leads nowhere, or what it leads to cannot be imported; the message is one line."""


def find_named(path: str) -> Any:
    """What a dotted path names within a module, attributes of classes included.

    Raises ImportPathError, with what was meant perhaps, when the module or the attribute does not exist.
    """
    with here_too():
        module, attributes = _import_longest(path)
    found: Any = module
    for depth, attribute in enumerate(attributes):
        if not hasattr(found, attribute):
            owner = ".".join([module.__name__, *attributes[:depth]])
            hint = _did_you_mean(attribute, dir(found))
            raise ImportPathError(f"{path}: {owner} has no {attribute!r}{hint}")
        found = getattr(found, attribute)
    return found


@contextmanager
def here_too() -> Iterator[None]:
    """Modules of the current folder can be imported, after all others, while this lasts."""
    here = str(Path.cwd())
    if here in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _import_longest(path: str) -> tuple[ModuleType, list[str]]:
    """The longest prefix of a dotted path that is a module, and the names after it."""
    names = path.split(".")
    if not all(name.isidentifier() for name in names):
        raise ImportPathError(f"{path!r} is no import path; write e.g. ase.calculators.emt.EMT")
    module: ModuleType | None = None
    for depth in range(1, len(names) + 1):
        prefix = ".".join(names[:depth])
        try:
            module = importlib.import_module(prefix)
        except ModuleNotFoundError as error:
            if error.name != prefix:
                raise ImportPathError(f"importing {prefix} failed: {error}") from error
            if module is None:
                msg = f"{path}: no module {prefix!r}; install it or correct the name"
                raise ImportPathError(msg) from error
            if depth < len(names) and not hasattr(module, names[depth - 1]):
                hint = _did_you_mean(names[depth - 1], [*dir(module), *_submodules(module)])
                raise ImportPathError(f"{path}: no module {prefix!r}{hint}") from error
            return module, names[depth - 1 :]
        except (Exception, SystemExit) as error:
            msg = f"importing {prefix} failed: {type(error).__name__}: {error}"
            raise ImportPathError(msg) from error
    raise ImportPathError(f"{path} is a module; name a class or a function in it")


def _submodules(module: ModuleType) -> list[str]:
    return [info.name for info in pkgutil.iter_modules(getattr(module, "__path__", []))]


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    public = [other for other in known if not other.startswith("_")]
    lowered = {other.lower(): other for other in public}  # tersoff is nearer to Tersoff than the letters say
    close = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=3)]
    return f"; did you mean {' or '.join(close)}?" if close else ""
