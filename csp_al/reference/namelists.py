"""Which keys pw.x knows, so that a misspelt one is found before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ase.io.espresso_namelist.keys import pw_keys

from csp_al.campaign.errors import Finding, shown
from csp_al.spelling import did_you_mean

ALLOWED: Final = ("control", "system", "electrons")
"""Namelists that a single point reads."""

BEFORE_7_1: Final = (
    "lda_plus_u", "lda_plus_u_kind", "u_projection_type", "hubbard_u", "hubbard_j0", "hubbard_j", "hubbard_v",
    "hubbard_parameters", "starting_ns_eigenvalue",
)  # fmt: skip
"""Keys of the namelist system that pw.x 7.1 moved to the card HUBBARD, and that ASE's table lacks."""

OURS: Final = {
    "calculation": "a label is a single point",
    "restart_mode": "a label starts from scratch",
    "pseudo_dir": "set reference.pseudo_dir",
    "outdir": "csp-al chooses it",
    "prefix": "csp-al chooses it",
    "wfcdir": "csp-al chooses it",
    "tprnfor": "forces are always computed",
    "tstress": "the stress is always computed",
    "ecutwfc": "set reference.ecutwfc",
    "ecutrho": "set reference.ecutrho",
    "nbnd": "set reference.bands",
    "degauss": "set reference.smearing, in eV",
    "scf_must_converge": "what has not converged is no label",
    "adaptive_thr": "what has not converged is no label",
    "nat": "it follows from the cell",
    "ntyp": "it follows from the cell",
    "ibrav": "the cell is given by its vectors",
    "celldm": "the cell is given by its vectors",
}
"""Keys that csp-al sets itself, and what to do instead."""

_PLAIN: Final = re.compile(r"[^'\"!\\\x00-\x1f\x7f]*")
"""Text that cannot end its own quotes in pw.x's input, and begin another key."""

_KEY: Final = re.compile(r"(\w+)(?:\(([\w, ]+)\))?")


def in_lower_case(namelists: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same keys as pw.x reads them, for whom Mixing_Beta is mixing_beta; elements in brackets keep their case.

    Raises ValueError for a key that stands there twice.
    """
    lowered: dict[str, dict[str, Any]] = {}
    for namelist, settings in namelists.items():
        plain = [f"{name.lower()}{bracket}{rest}" for name, bracket, rest in (key.partition("(") for key in settings)]
        for key in plain:
            if plain.count(key) > 1:
                raise ValueError(f"{namelist}.{shown(key)} stands there twice, in capitals and without")
        lowered[namelist] = dict(zip(plain, settings.values(), strict=True))
    return lowered


def elements_in(namelists: Mapping[str, Mapping[str, Any]]) -> dict[str, set[str]]:
    """The symbols in brackets of each key that has any: starting_magnetization(Fe)."""
    keys = [key for settings in namelists.values() for key in settings]
    found = {key: set(re.findall(r"[A-Za-z]+", key.partition("(")[2])) for key in keys}
    return {key: symbols for key, symbols in found.items() if symbols}


def wrong_keys(namelists: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """What pw.x would not take, or what is not the user's to set; keys as in reference.namelists."""
    for namelist, settings in namelists.items():
        if namelist not in ALLOWED:
            hint = did_you_mean(namelist, ALLOWED)
            message = f"no namelist of a single point{hint or '; allowed: ' + ', '.join(ALLOWED)}"
            yield Finding((namelist,), message, at_key=True)
            continue
        for key, value in settings.items():
            if message := _wrong_key(namelist, key):
                yield Finding((namelist, key), message, at_key=True)
            elif not isinstance(value, (bool, int, float, str)):
                yield Finding((namelist, key), f"a number, text, true or false is expected, not {shown(value)}")
            elif isinstance(value, str) and not _PLAIN.fullmatch(value):
                yield Finding((namelist, key), f"{shown(value)}: text without quotes, ! and line breaks is expected")


def _wrong_key(namelist: str, key: str) -> str:
    name = _KEY.fullmatch(key)
    word = name[1].lower() if name else key
    if word in OURS:
        return f"not to be set here: {OURS[word]}"
    known = [*pw_keys[namelist], *(BEFORE_7_1 if namelist == "system" else ())]
    if name and word in known:
        return ""
    elsewhere = [other for other in ALLOWED if word in pw_keys[other]]
    hint = f"; it belongs to {elsewhere[0]}" if elsewhere else did_you_mean(word, known)
    return f"pw.x has no such key in {namelist}{hint}"
