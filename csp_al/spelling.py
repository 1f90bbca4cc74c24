"""Did you mean ...? For keys, kinds, elements and formulas."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

from ase.data import atomic_names, atomic_numbers, chemical_symbols
from ase.formula import Formula

ELEMENTS = tuple(chemical_symbols[1:])  # the first is X, a placeholder
PLAIN_FORMULA = re.compile(r"[A-Za-z0-9()]+", re.ASCII)
"""What formulas are written with."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``, did you mean ...?`` with the nearest of the known words, or nothing."""
    lowered = {other.lower(): other for other in known}
    close = difflib.get_close_matches(word.lower(), lowered, n=1)
    return f", did you mean {lowered[close[0]]}?" if close else ""


def nearest_element(symbol: str) -> str:
    """``, did you mean ...?`` with the element whose first letter is the same and whose second is next to it."""
    near = [element for element in ELEMENTS if element[0] == symbol[:1].upper()]
    if not near or len(symbol) < 2:
        return f", did you mean {symbol.upper()}?" if symbol.upper() in near else ""
    second = ord(symbol[1].lower())
    best = min(near, key=lambda element: abs(ord(element[1]) - second) if len(element) > 1 else len(ELEMENTS))
    return f", did you mean {best}?"


def meant_formula(text: str) -> str:
    """``, did you mean ...?`` for formulas in lower case, with spaces, subscripts, water, or names of elements.

    Of a charge it says that there is none.
    """
    if re.search(r"\^|[+-]$", text):
        return "; cells have no charge: write the atoms alone, e.g. Al4O6"
    symbols = {name.lower(): symbol for name, symbol in zip(atomic_names[1:], ELEMENTS, strict=False)}
    plain = re.sub(r"[\s_]+", "", unicodedata.normalize("NFKC", text))
    plain = re.sub(r"[.·•*](\d*)([A-Za-z][A-Za-z0-9()]*)", r"(\2)\1", plain)  # Al4O6.3H2O
    named = re.sub(r"[A-Za-z]+", lambda word: symbols.get(word[0].lower(), word[0].capitalize()), plain)
    return next((f", did you mean {guess}?" for guess in (plain, named) if guess != text and _is_formula(guess)), "")


def _is_formula(text: str) -> bool:
    try:
        return bool(PLAIN_FORMULA.fullmatch(text)) and all(symbol in ELEMENTS for symbol in Formula(text))
    except ValueError:
        return False


def is_element(symbol: str) -> bool:
    """Whether an element has this symbol."""
    return symbol in atomic_numbers and symbol != "X"
