"""Any ASE calculator, told by the import path of its class, or of a function that returns one. See `worker`."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

ALONE = 1 << 60
"""Bytes, more than fit beside others: a batch would be computed one by one, and again where one fails."""


def load(model: str, parameters: dict[str, Any], device: str) -> tuple[Any, Any, dict[str, Any]]:  # noqa: ARG001
    """Convert, evaluate, and what it is; one calculator judges crystal after crystal, where its parameters say."""
    factory = _find(model)
    calculator = factory(**parameters)
    if not hasattr(calculator, "get_potential_energy"):
        raise TypeError(f"{model} returned a {type(calculator).__name__}, not an ASE calculator")
    missing = {"energy", "forces", "stress"} - set(getattr(calculator, "implemented_properties", ()))
    if missing:
        raise TypeError(f"{model} gives no {' and no '.join(sorted(missing))}, which relaxations need")

    def convert(atoms: Any) -> tuple[Any, int]:
        return atoms, ALONE

    def evaluate(crystals: list[Any]) -> list[Any]:
        for atoms in crystals:
            atoms.calc = calculator
        return [(a.get_potential_energy(), a.get_forces(), a.get_stress(voigt=False)) for a in crystals]

    about: dict[str, Any] = {
        "version": _version(model.partition(".")[0]),
        "weights": {},
        "elements": None,
        "functional": None,
    }
    return convert, evaluate, about


def _find(path: str) -> Any:
    """What a dotted path names: a module, and within it a class or a function."""
    first, *names = path.split(".")
    found: Any = importlib.import_module(first)
    above = first
    for name in names:
        above += f".{name}"
        if not hasattr(found, name):
            importlib.import_module(above)
        found = getattr(found, name)
    return found


def _version(package: str) -> dict[str, str]:
    """Of an installed package; none of a module beside the campaign file."""
    try:
        return {package: metadata.version(package)}
    except metadata.PackageNotFoundError:
        version = getattr(importlib.import_module(package), "__version__", None)
        return {package: str(version)} if version else {}
