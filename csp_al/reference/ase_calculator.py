"""Any ASE calculator as the reference, by its import path and keywords.

The path names a class, or a function or class method that returns a calculator: ``ase.calculators.emt.EMT``,
``ase.calculators.tersoff.Tersoff.from_lammps``, ``my_module.my_calculator``. Modules are looked for as Python does,
then in the current folder.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from csp_al.campaign.errors import shown
from csp_al.campaign.references import AseReference

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator


class WrongValueError(ValueError):
    """A key of the reference section has a value that cannot be used; the text names both."""

    def __init__(self, key: str, message: str) -> None:
        self.key, self.message = key, message
        super().__init__(f"reference.{key}: {message}")


@dataclass(frozen=True)
class AseCalculator:
    """An ASE calculator as a `csp_al.interfaces.Reference`."""

    section: AseReference

    @property
    def name(self) -> str:
        """The import path."""
        return self.section.calculator

    def calculator(self, atoms: Atoms, directory: Path) -> BaseCalculator:  # noqa: ARG002
        """A fresh calculator; one that writes files is told the directory. Raises WrongValueError as `make` does."""
        calculator = self.make()
        if hasattr(calculator, "directory"):
            calculator.directory = directory
        return calculator

    def kpoints(self, atoms: Atoms) -> list[int] | None:  # noqa: ARG002
        """What mesh the calculator takes, if any, is not known here."""
        return None

    def check(self) -> list[tuple[str, str]]:
        """What is wrong with the import path or the keywords; makes one calculator to find out."""
        try:
            self.make()
        except WrongValueError as error:
            return [(error.key, error.message)]
        return []

    def warnings(self) -> list[tuple[str, str]]:
        """None."""
        return []

    def pinned(self) -> AseReference:
        """The section as it is: what else the calculator depends on is not known here."""
        return self.section

    def versions(self) -> dict[str, str]:
        """None beside the packages'."""
        return {}

    def make(self) -> Any:
        """Call what the import path names with the keywords. Raises WrongValueError if it cannot be found or called."""
        factory = find_callable(self.name)
        try:
            calculator = factory(**self.section.parameters)
        except (Exception, SystemExit) as error:
            msg = (
                f"{self.name}({_shown(self.section.parameters)}) failed: {type(error).__name__}: {error}; "
                f"give the keywords that it takes"
            )
            raise WrongValueError("parameters", msg) from error
        if not hasattr(calculator, "get_potential_energy"):
            msg = f"{self.name} returned a {type(calculator).__name__}, not an ASE calculator"
            raise WrongValueError("calculator", msg)
        return calculator


def find_callable(path: str) -> Callable[..., Any]:
    """What a dotted path names, attributes of classes included.

    Raises WrongValueError with what was meant perhaps when the module or the attribute does not exist.
    """
    module, attributes = _import_longest(path)
    found: Any = module
    for depth, attribute in enumerate(attributes):
        if not hasattr(found, attribute):
            owner = ".".join([module.__name__, *attributes[:depth]])
            hint = _did_you_mean(attribute, dir(found))
            msg = f"{path}: {owner} has no {attribute!r}{hint}"
            raise WrongValueError("calculator", msg)
        found = getattr(found, attribute)
    if not callable(found):
        msg = f"{path} is a {type(found).__name__}; name a class or a function"
        raise WrongValueError("calculator", msg)
    return found


def _import_longest(path: str) -> tuple[ModuleType, list[str]]:
    """The longest prefix of a dotted path that is a module, and the names after it."""
    names = path.split(".")
    if not all(name.isidentifier() for name in names):
        msg = f"{path!r} is no import path; write e.g. ase.calculators.emt.EMT"
        raise WrongValueError("calculator", msg)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    module: ModuleType | None = None
    for depth in range(1, len(names) + 1):
        prefix = ".".join(names[:depth])
        try:
            module = importlib.import_module(prefix)
        except ModuleNotFoundError as error:
            if error.name != prefix:
                raise WrongValueError("calculator", f"importing {prefix} failed: {error}") from error
            if module is None:
                msg = f"{path}: no module {prefix!r}; install it or correct the name"
                raise WrongValueError("calculator", msg) from error
            if depth < len(names) and not hasattr(module, names[depth - 1]):
                hint = _did_you_mean(names[depth - 1], [*dir(module), *_submodules(module)])
                msg = f"{path}: no module {prefix!r}{hint}"
                raise WrongValueError("calculator", msg) from error
            return module, names[depth - 1 :]
        except (Exception, SystemExit) as error:
            msg = f"importing {prefix} failed: {type(error).__name__}: {error}"
            raise WrongValueError("calculator", msg) from error
    msg = f"{path} is a module; name a class or a function in it"
    raise WrongValueError("calculator", msg)


def _shown(keywords: Mapping[str, Any]) -> str:
    """Keywords as they are written in a call, long values cut."""
    return ", ".join(f"{key}={shown(value)}" for key, value in keywords.items())


def _submodules(module: ModuleType) -> list[str]:
    return [info.name for info in pkgutil.iter_modules(getattr(module, "__path__", []))]


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    public = [other for other in known if not other.startswith("_")]
    lowered = {other.lower(): other for other in public}  # tersoff is nearer to Tersoff than the letters say
    close = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=3)]
    return f"; did you mean {' or '.join(close)}?" if close else ""
