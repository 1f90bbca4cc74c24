"""Which keys an INCAR of VASP may have here, so that a misspelt one, which VASP passes over, is found in time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from csp_al.campaign.errors import Finding, shown
from csp_al.spelling import did_you_mean

OURS: Final = {
    "encut": "set reference.encut",
    "enmax": "set reference.encut",
    "kspacing": "set reference.kspacing",
    "kgamma": "meshes hold Gamma",
    "sigma": "set reference.smearing, in eV",
    "nsw": "a label is a single point",
    "ibrion": "a label is a single point",
    "isif": "the stress is always computed",
    "potim": "a label is a single point",
    "ediffg": "set finish.fmax",
    "pstress": "a pressure would be in the energies",
    "istart": "a label starts from scratch",
    "icharg": "a label starts from scratch",
    "lwave": "what VASP leaves is removed",
    "lcharg": "what VASP leaves is removed",
    "ml_lmlff": "labels are calculated, not learnt",
    "ml_mode": "labels are calculated, not learnt",
    "system": "csp-al chooses it",
}
"""Keys that csp-al sets itself, or that no label may have, and what to do instead."""


def in_lower_case(incar: Mapping[str, Any]) -> dict[str, Any]:
    """The same keys in lower case, for VASP reads both. Raises ValueError for a key that stands there twice."""
    lowered = {key.lower(): value for key, value in incar.items()}
    if len(lowered) < len(incar):
        raise ValueError("a key stands there twice, in capitals and without")
    return lowered


def wrong_keys(incar: Mapping[str, Any]) -> Iterator[Finding]:
    """What is not the user's to set, what is misspelt, and values that no INCAR can hold; keys as in it."""
    for key, value in incar.items():
        if key in OURS:
            yield Finding((key,), f"not to be set here: {OURS[key]}", at_key=True)
        elif hint := _misspelt(key):
            yield Finding((key,), f"VASP has no such key{hint}", at_key=True)
        elif key in ("magmom", "ldau_luj"):
            if not isinstance(value, dict):
                yield Finding((key,), "values by element are expected, e.g. {Fe: 5.0}; atoms stand in another order")
        elif not _is_plain(value):
            yield Finding((key,), f"a number, text, true, false or a list of numbers is expected, not {shown(value)}")


def unknown_keys(incar: Mapping[str, Any]) -> list[str]:
    """Keys of which neither ASE nor pymatgen knows: VASP may, or passes them over without a word."""
    return [key for key in incar if key not in known_keys()]


@cache
def known_keys() -> frozenset[str]:
    """Keys of an INCAR that ASE or pymatgen knows, in lower case."""
    import json
    from importlib.resources import files

    from ase.calculators.vasp import create_input as ase_input

    of_ase = [key for name in vars(ase_input) if name.endswith("_keys") for key in getattr(ase_input, name)]
    of_pymatgen = json.loads((files("pymatgen.io.vasp") / "incar_parameters.json").read_text(encoding="utf-8"))
    return frozenset(key.lower() for key in (*of_ase, *of_pymatgen, "ldau_luj", "magmom"))


def _misspelt(key: str) -> str:
    """``, did you mean ...?`` for a key that is unknown and near to a known one; empty elsewhere."""
    return "" if key in known_keys() else did_you_mean(key, known_keys())


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        kinds = {type(one) for one in value}
        return bool(value) and len(kinds) == 1 and kinds <= {bool, int, float}
    if isinstance(value, str):
        return value.isprintable() and not set(value) & set(";#!=\\\"'")
    return isinstance(value, (bool, int, float))
