"""Any ASE calculator as the reference, by its import path and keywords.

The path names a class, or a function or class method that returns a calculator: ``ase.calculators.emt.EMT``,
``ase.calculators.tersoff.Tersoff.from_lammps``, ``my_module.my_calculator``. Modules are looked for beside the campaign
file, then as Python does, then in the current folder.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import Field

from csp_al.campaign.errors import Finding, shown
from csp_al.campaign.references import ReferenceSection
from csp_al.importing import ImportPathError, UnaskedError, beside, find_named, here_too, is_beside, is_looking
from csp_al.interfaces import ReferenceFailedError, ReferenceKind
from csp_al.reference.children import in_a_child
from csp_al.reference.ladder import AGAIN

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator


ACTS: Final = re.compile(
    "command|cmd|exec|prog|bin|launch|profile|client|script|shell|header|log|txt|output|tmp|socket|port", re.IGNORECASE
)
"""Keywords that may name what some of ASE's calculators start or write to as soon as they are made."""
EMT: Final = "ase.calculators.emt.EMT"
MAKERS: Final = ("csp_al.reference.classical", "csp_al.reference.codes")


class AseReference(ReferenceSection):
    """Any ASE calculator."""

    curable: ClassVar[tuple[str, ...]] = ("parameters", "time_limit")

    kind: Literal["ase"]
    calculator: str = Field(
        description="import path of a calculator class, or of a function that returns a calculator",
        examples=["ase.calculators.emt.EMT"],
    )
    parameters: dict[str, Any] = Field(default_factory=dict, description="its keywords")

    def senseless(self) -> Iterator[Finding]:
        """Whether the path leads anywhere is for the reference to say."""
        names = self.calculator.split(".")
        if len(names) < 2 or not all(name.isidentifier() for name in names):
            message = f"{shown(self.calculator)!r} is no import path; write module.name, e.g. ase.calculators.emt.EMT"
            yield Finding(("calculator",), message)


def unknown_to_emt(species: Iterable[str]) -> str:
    """Which of these elements EMT does not have, in words; empty if none."""
    from ase.calculators.emt import parameters

    unknown = ", ".join(symbol for symbol in species if symbol not in parameters)
    if not unknown:
        return ""
    return f"EMT has no {unknown}, only {', '.join(parameters)}; name a calculator that has all elements"


class WrongValueError(ValueError):
    """A key of the reference section has a value that cannot be used; the text names both."""

    def __init__(self, key: str, message: str) -> None:
        self.key, self.message = key, message
        super().__init__(f"reference.{key}: {message}")


@dataclass(frozen=True)
class AseCalculator:
    """An ASE calculator as a `csp_al.interfaces.Reference`."""

    section: AseReference
    folder: Path = Path()
    """Where modules are looked for first."""
    species: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The import path."""
        return self.section.calculator

    def calculator(self, atoms: Atoms, directory: Path) -> BaseCalculator:  # noqa: ARG002
        """A fresh calculator; one that writes files is told the directory. Raises what `make` raises."""
        calculator = self.make()
        if hasattr(calculator, "directory"):
            calculator.directory = directory
        return calculator

    def kpoints(self, atoms: Atoms) -> list[int] | None:  # noqa: ARG002
        """What mesh the calculator takes, if any, is not known here."""
        return None

    def check(self) -> list[tuple[str, str]]:
        """What is wrong with import path, keywords or elements; a child makes one calculator to find out."""
        try:
            return in_a_child(self._wrong)
        except EOFError:
            return [("calculator", f"the process that made a {self.name} to try it died; try it in Python")]

    def _wrong(self) -> list[tuple[str, str]]:
        try:
            self.make()
        except WrongValueError as error:
            return [(error.key, error.message)]
        except ReferenceFailedError as error:
            return [("parameters", str(error))]
        except UnaskedError:
            return []
        return self._unknown_elements()

    def _unknown_elements(self) -> list[tuple[str, str]]:
        """Of EMT, with which people begin: what others know is told by their first label alone."""
        words = unknown_to_emt(self.species) if self.name == EMT else ""
        return [("calculator", words)] if words else []

    def warnings(self) -> list[tuple[str, str]]:
        """That the calculator was not made, where nobody asked for that."""
        return in_a_child(self._not_made) if is_looking() else []

    def _not_made(self) -> list[tuple[str, str]]:
        try:
            self.make()
        except UnaskedError as error:
            return [("calculator", f"{error}; --trust makes it, as csp-al run does")]
        return []

    def pinned(self) -> AseReference:
        """The section as it is: what else the calculator depends on is not known here."""
        return self.section

    def versions(self) -> dict[str, str]:
        """None beside the packages'."""
        return {}

    def make(self) -> Any:
        """Call what the import path names with the keywords.

        Raises WrongValueError if it cannot be found or called, ReferenceFailedError where it says itself what lacks,
        UnaskedError where this is but a look and it might run what its author or its keywords choose.
        """
        with beside(self.folder), here_too():  # a function may import what it needs only when it is called
            return self._make()

    def _make(self) -> Any:
        factory = find_callable(self.name)
        if is_looking() and not _is_harmless(factory, self.section.parameters):
            raise UnaskedError(self.name, getattr(factory, "__module__", "?"))
        try:
            calculator = factory(**self.section.parameters)
        except ReferenceFailedError:  # of csp_al.reference.codes, with its kind
            raise
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
    """What a dotted path names. Raises WrongValueError when that is nothing, or nothing that can be called."""
    if path.partition(".")[0] in sys.stdlib_module_names and not is_beside(path):
        raise WrongValueError("calculator", f"{path} is of Python's standard library, which has no ASE calculator")
    try:
        found = find_named(path)
    except UnaskedError:
        raise
    except ImportPathError as error:
        raise WrongValueError("calculator", str(error)) from error
    if not callable(found):
        msg = f"{path} is a {type(found).__name__}; name a class or a function"
        raise WrongValueError("calculator", msg)
    return found


def _is_harmless(factory: Callable[..., Any], keywords: Mapping[str, Any]) -> bool:
    """Whether a call runs but a calculator class of ASE, or a function of ours, and starts and writes nothing."""
    if any(ACTS.search(key) for key in _keys(keywords)):
        return False
    owner = getattr(factory, "__self__", factory)  # of a class method its class
    if isinstance(owner, type):
        return owner.__module__.startswith("ase.calculators.") and hasattr(owner, "get_potential_energy")
    return getattr(factory, "__module__", "") in MAKERS


def _keys(keywords: Any) -> Iterator[str]:
    """Of a mapping and all that it holds."""
    if isinstance(keywords, Mapping):
        for key, value in keywords.items():
            yield str(key)
            yield from _keys(value)
    elif isinstance(keywords, list | tuple):
        for value in keywords:
            yield from _keys(value)


def _shown(keywords: Mapping[str, Any]) -> str:
    """Keywords as they are written in a call, long values cut."""
    return ", ".join(f"{key}={shown(value)}" for key, value in keywords.items())


def _prepare(section: AseReference) -> None:
    with suppress(ValueError):
        find_callable(section.calculator)


KIND: Final = ReferenceKind(
    section=AseReference,
    build=lambda section, species, machine, base: AseCalculator(section, Path(machine.modules or base), tuple(species)),
    prepare=_prepare,
    foreign_code=lambda section: f"reference.calculator: {section.calculator}",
    ladder=(AGAIN,),
    bytes_per_task=8_000,
)
