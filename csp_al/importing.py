"""What an import path names: looked for beside the campaign file, then as Python does, then in the current folder.

find_named("ase.calculators.tersoff.Tersoff.from_lammps")

with beside(Path("campaigns")):
find_named("my_module.my_calculator")  # of campaigns/my_module.py
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

_first: ContextVar[Path | None] = ContextVar("folder of the campaign file", default=None)
_loaded: dict[str, str] = {}
"""Files of the modules that were found beside a campaign file: another campaign may have another of this name."""


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
def beside(folder: Path) -> Iterator[None]:
    """While this lasts a named module is looked for in this folder, that of the campaign file, before all others."""
    before = _first.set(folder)
    try:
        yield
    finally:
        _first.reset(before)


@contextmanager
def here_too() -> Iterator[None]:
    """While this lasts modules beside the campaign file and in the current folder can be imported, after all others."""
    places = dict.fromkeys(str(place.resolve()) for place in (_first.get(), Path.cwd()) if place)
    added = [place for place in places if place not in sys.path]
    sys.path.extend(added)
    try:
        yield
    finally:
        for place in added:
            if place in sys.path:
                sys.path.remove(place)


def which_of_several(path: str) -> str:
    """In words, where several places have the module that a path begins with: which is taken; empty elsewhere."""
    name = path.partition(".")[0]
    taken = getattr(sys.modules.get(name), "__file__", None)
    places = [str(folder) for folder in (_first.get(), Path.cwd()) if folder]
    found = [spec.origin for place in (*places, *sys.path) if (spec := _spec_in(place, name)) and spec.origin]
    others = [file for file in dict.fromkeys(found) if taken and not Path(file).samefile(taken)]
    return f"module {name} is taken from {taken}, not from {others[0]}" if others else ""


def _spec_in(place: str, name: str) -> ModuleSpec | None:
    """The module of this name in a folder; a folder without ``__init__.py`` is none."""
    spec = PathFinder.find_spec(name, [place])
    return spec if spec is not None and spec.loader is not None and spec.has_location else None


def _load_from_beside(name: str) -> None:
    """Load the module from beside the campaign file, if it is there and Python has not loaded one of this name."""
    folder = _first.get()
    spec = _spec_in(str(folder.resolve()), name) if folder else None
    if spec is None or spec.loader is None or spec.origin is None:
        return
    if name in _loaded and _loaded[name] != spec.origin:
        for known in [known for known in sys.modules if known.partition(".")[0] == name]:
            del sys.modules[known]
    if name in sys.modules:
        return
    sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    except BaseException:
        del sys.modules[name]
        raise
    _loaded[name] = spec.origin


def _import_longest(path: str) -> tuple[ModuleType, list[str]]:
    """The longest prefix of a dotted path that is a module, and the names after it."""
    names = path.split(".")
    if not all(name.isidentifier() for name in names):
        raise ImportPathError(f"{path!r} is no import path; write e.g. ase.calculators.emt.EMT")
    module: ModuleType | None = None
    for depth in range(1, len(names) + 1):
        prefix = ".".join(names[:depth])
        try:
            if depth == 1:
                _load_from_beside(prefix)
            module = importlib.import_module(prefix)
        except ModuleNotFoundError as error:
            if error.name != prefix:
                raise ImportPathError(f"importing {prefix} failed: {error}") from error
            if module is None:
                msg = f"{path}: no module {prefix!r}; put it beside the campaign file, install it, or correct the name"
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
