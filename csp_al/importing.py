"""What an import path names: looked for beside the campaign file, then as Python does, then in the current folder.

find_named("ase.calculators.tersoff.Tersoff.from_lammps")

with beside(Path("campaigns")):
find_named("my_module.my_calculator")  # of campaigns/my_module.py

with looking_only():
find_named("my_module.my_calculator")  # UnaskedError, if it is there: it is found and parsed, and not run
"""

from __future__ import annotations

import ast
import difflib
import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from os.path import realpath
from pathlib import Path
from types import ModuleType
from typing import Any, Final

_first: ContextVar[Path | None] = ContextVar("folder of the campaign file", default=None)
_looking: ContextVar[bool] = ContextVar("nothing that a campaign file names is run", default=False)
OURS: Final = ("ase", "csp_al")
"""Packages whose import runs nobody else's code."""
_loaded: dict[str, str] = {}
"""Files of the modules that were found beside a campaign file: another campaign may have another of this name."""


class ImportPathError(ValueError):
    """An import path leads nowhere, or what it leads to cannot be imported; the message is one line."""


class UnaskedError(ImportPathError):
    """An import path leads to what is not run while nobody asks for it; the message says what and where it is."""

    def __init__(self, path: str, where: str) -> None:
        what = "it is code of yours, or may start programs or write files"
        super().__init__(f"{path} ({where}) was found, and is not run here: {what}")


def find_named(path: str) -> Any:
    """What a dotted path names within a module, attributes of classes included.

    Raises ImportPathError, with what was meant perhaps, when the module or the attribute does not exist, and
    UnaskedError where it does and this is but a look.
    """
    if _looking.get() and path.partition(".")[0] not in OURS:
        raise UnaskedError(path, _place_of(path))
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
def looking_only() -> Iterator[None]:
    """While this lasts no module is imported for a path that names it, but for those of ASE and of csp_al."""
    before = _looking.set(True)
    try:
        yield
    finally:
        _looking.reset(before)


def is_looking() -> bool:
    """Whether nothing that a campaign file names may be run now."""
    return _looking.get()


@contextmanager
def here_too() -> Iterator[None]:
    """While this lasts modules beside the campaign file and in the current folder can be imported, after all others.

    Not while nothing may be run: some of ASE's calculators import what is not installed, and would find it there.
    """
    added = [] if _looking.get() else [place for place in _own_places() if place not in sys.path]
    sys.path.extend(added)
    try:
        yield
    finally:
        for place in added:
            if place in sys.path:
                sys.path.remove(place)


def _own_places() -> list[str]:
    """The folder of the campaign file, and the current one."""
    return list(dict.fromkeys(str(place.resolve()) for place in (_first.get(), Path.cwd()) if place))


def is_beside(path: str) -> bool:
    """Whether the module that a path begins with lies beside the campaign file."""
    folder = _first.get()
    return folder is not None and _spec_in(str(folder.resolve()), path.partition(".")[0]) is not None


def which_of_several(path: str) -> str:
    """In words, where several places have the module that a path begins with: which is taken; empty elsewhere."""
    name = path.partition(".")[0]
    taken = getattr(sys.modules.get(name), "__file__", None)
    places = [str(folder) for folder in (_first.get(), Path.cwd()) if folder]
    found = [spec.origin for place in (*places, *sys.path) if (spec := _spec_in(place, name)) and spec.origin]
    others = [file for file in dict.fromkeys(found) if taken and realpath(file) != realpath(taken)]
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


def _place_of(path: str) -> str:
    """The file that a path leads to, which is parsed and not run. Raises ImportPathError."""
    name, *rest = _names_in(path)
    spec = _unloaded(name)
    if spec is None:
        raise ImportPathError(_no_module(path, name))
    # by its last name alone: of a dotted one Python asks the package that it is in, which is not loaded
    while rest and spec.submodule_search_locations is not None:
        inner = PathFinder.find_spec(rest[0], list(spec.submodule_search_locations))
        if inner is None:
            break
        spec, rest = inner, rest[1:]
    if not rest:
        raise ImportPathError(f"{path} is a module; name a class or a function in it")
    if (place := spec.origin) is None:  # a folder that is no package
        raise ImportPathError(_no_module(path, rest[0]))
    if place.endswith(".py") and Path(place).is_file() and (wrong := _lacks(Path(place), rest[0])):
        raise ImportPathError(f"{path}: {wrong}")
    return place


def _unloaded(name: str) -> ModuleSpec | None:
    """Where a module or package is, which is not loaded."""
    folder = _first.get()
    if folder and (found := _spec_in(str(folder.resolve()), name)):
        return found
    places = [*sys.path, *_own_places()]
    return next((spec for finder in sys.meta_path if (spec := finder.find_spec(name, places))), None)


def _lacks(file: Path, name: str) -> str:
    """What is wrong with a source that should define a name; empty if it does, as far as can be seen."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError as error:
        return f"{file}:{error.lineno}: {error.msg}"
    except (OSError, ValueError, RecursionError) as error:
        return f"{file} cannot be read ({error})"
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return "" if found & {name, "*", "__getattr__"} else f"{file} has no {name!r}{_did_you_mean(name, found)}"


def _names_in(path: str) -> list[str]:
    names = path.split(".")
    if not all(name.isidentifier() for name in names):
        raise ImportPathError(f"{path!r} is no import path; write e.g. ase.calculators.emt.EMT")
    return names


def _no_module(path: str, name: str) -> str:
    return f"{path}: no module {name!r}; put it beside the campaign file, install it, or correct the name"


def _import_longest(path: str) -> tuple[ModuleType, list[str]]:
    """The longest prefix of a dotted path that is a module, and the names after it."""
    names = _names_in(path)
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
                raise ImportPathError(_no_module(path, prefix)) from error
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
