"""Under which of its keys a frame has energy, forces and stress: as ASE names them, or as the world does.

    frame = labelled_frame(atoms, {"energy": "REF_energy"})

What belongs to one method has one prefix: REF_energy, REF_forces, REF_stress. Where a frame has the values of two,
nothing tells which is meant, so the campaign file must.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress

from csp_al.reference.frames import Frame, lacking
from csp_al.structure_files import original_name
from csp_al.structures import Floats

if TYPE_CHECKING:
    from ase import Atoms

KEY: Final = re.compile(
    r"(?:(?P<before>.+?)[_.-])??(?P<name>free_energy|energy|forces?|stress|virials?)(?:[_.-](?P<after>.+))?",
    re.IGNORECASE,
)
"""A key by the method that it is of and what it holds: dft_free_energy, forces, REF_virials, stress_vasp."""
OF_STRUCTURE: Final = frozenset(
    {"numbers", "positions", "tags", "momenta", "masses", "initial_magmoms", "initial_charges", "spacegroup_kinds"}
)
SIX: Final = " of six numbers (Voigt's: xx yy zz yz xz xy)"
SAME: Final = 1e-6
"""Of values, relatively, below which two keys say the same."""

QUANTITIES: Final = ("energy", "free_energy", "forces", "stress", "virial")

Keys = dict[str, str]
"""Keys by what they hold: energy, free_energy, forces, stress, virial."""


class UnclearKeysError(ValueError):
    """The values of a frame may be meant in more than one way; the message names its keys."""


def labelled_frame(atoms: Atoms, given: Mapping[str, str]) -> Frame:
    """The frame as a label, or with the reason why it is none; ``given`` are keys that the campaign file names.

    The energy is the free energy, whose derivatives the forces are, where both are there. Raises UnclearKeysError.
    """
    values = _values(atoms)
    if missing := [key for key in given.values() if key not in values]:
        return Frame(atoms, wrong=f"without {', '.join(missing)}{_keys_there(values)}")
    methods = _methods(values, len(atoms))
    chosen = _completed(dict(given), methods) if given else _only_method(methods, values)
    energy, bad_energy = _energy(values, chosen)
    forces, bad_forces = _forces(values, chosen, len(atoms))
    stress, bad_stress = _stress(values, chosen, atoms)
    frame = Frame(atoms, energy, forces, stress)
    lacks = lacking(frame)
    wrong = bad_energy or bad_forces or bad_stress or (lacks and lacks + _keys_there(values, chosen))
    return Frame(atoms, energy, forces, stress, wrong, _unusual(chosen, atoms))


def _unusual(chosen: Keys, atoms: Atoms) -> str:
    """The keys that values were taken from, in words; empty where they are ASE's own."""
    usual = getattr(atoms.calc, "results", {})
    there = [quantity for quantity in QUANTITIES if quantity in chosen]
    keys = [chosen[quantity] for quantity in there if quantity != "energy" or "free_energy" not in chosen]
    shapes = {original_name(key): np.shape(value) for key, value in atoms.info.items()}
    said = [f"{key}{SIX if shapes.get(key) == (6,) else ''}" for key in keys]
    nine = {"stress"} if shapes.get("stress") in {(9,), (3, 3)} else set()
    return "" if set(said) <= {*usual, *nine} else ", ".join(said)


def _values(atoms: Atoms) -> dict[str, Any]:
    """All that a frame has beside its structure, by the keys of its file; results last, since they are meant first."""
    inner = [atoms.info[key] for key in ("key_value_pairs", "data") if isinstance(atoms.info.get(key), Mapping)]
    tables = (*inner, atoms.info, atoms.arrays, getattr(atoms.calc, "results", {}))
    return {
        original_name(key): value
        for table in tables
        for key, value in table.items()
        if key not in OF_STRUCTURE and value is not None
    }


def _methods(values: Mapping[str, Any], count: int) -> dict[str, Keys]:
    """The keys of each method, by its name; of keys with a prefix or a suffix only those that hold what they say."""
    methods: dict[str, Keys] = {}
    for key in values:
        if found := KEY.fullmatch(key):
            quantity = {"force": "forces", "virials": "virial"}.get(found["name"].lower(), found["name"].lower())
            name = _method(found)
            if not name or _fits(values[key], quantity, count):
                methods.setdefault(name, {}).setdefault(quantity, key)
    return methods


def _method(found: re.Match[str]) -> str:
    return (found["before"] or found["after"] or "").lower()


def _fits(value: Any, quantity: str, count: int) -> bool:
    of_others: dict[str, list[tuple[int, ...]]] = {"energy": [()], "free_energy": [()], "forces": [(count, 3)]}
    shapes = of_others.get(quantity, [(6,), (9,), (3, 3)])
    array = np.asarray(value)
    return array.dtype.kind in "fi" and array.shape in shapes


def _only_method(methods: Mapping[str, Keys], values: Mapping[str, Any]) -> Keys:
    """The keys of the only method that has energy and forces. Raises UnclearKeysError where there are two."""
    has_energy = {name for name, keys in methods.items() if keys.keys() & {"energy", "free_energy"}}
    has_forces = {name for name, keys in methods.items() if "forces" in keys}
    both = sorted(has_energy & has_forces)
    if not both:
        if has_energy and has_forces:
            mixed = _list([methods[name] for name in (min(has_energy), min(has_forces))])
            raise UnclearKeysError(f"{mixed} are of different methods, by their names{_how_to_say(methods)}")
        return methods.get("", {})
    chosen = methods[both[0]]
    others = [methods[name] for name in both[1:]]
    if any(not _agree(values, chosen, keys) for keys in others):
        sets = "; ".join(_list([methods[name]]) for name in both)
        raise UnclearKeysError(f"the values of several methods stand side by side ({sets}){_how_to_say(methods)}")
    elsewhere = [keys for keys in methods.values() if keys.keys() & {"stress", "virial"}]
    if not chosen.keys() & {"stress", "virial"} and elsewhere:
        known = _list([{k: v for k, v in keys.items() if k in ("stress", "virial")} for keys in elsewhere])
        raise UnclearKeysError(f"{known} is not of the method of {_list([chosen])}, by name{_how_to_say(methods)}")
    return chosen


def _agree(values: Mapping[str, Any], keys: Keys, others: Keys) -> bool:
    """Whether two methods say the same of what both have."""
    pairs = [(values[key], values[others[quantity]]) for quantity, key in keys.items() if quantity in others]
    return all(
        np.shape(one) == np.shape(other) and np.allclose(one, other, rtol=SAME, atol=SAME) for one, other in pairs
    )


def _completed(given: Keys, methods: Mapping[str, Keys]) -> Keys:
    """The keys that the campaign file names, and for the rest those of the same method, or the only ones.

    Raises UnclearKeysError.
    """
    found = [match for key in given.values() if (match := KEY.fullmatch(key))]
    own = next((methods[_method(match)] for match in found if _method(match) in methods), {})
    for quantities in (("free_energy", "energy"), ("forces",), ("stress", "virial")):
        if given.keys() & set(quantities):
            continue
        if not own.keys() & set(quantities):
            keys = [
                (quantity, key) for each in methods.values() for quantity, key in each.items() if quantity in quantities
            ]
            if len(keys) > 1:
                listed = ", ".join(key for _, key in keys)
                raise UnclearKeysError(f"{quantities[-1]} may be {listed}; name one of them too")
            given |= dict(keys)
        given |= {quantity: own[quantity] for quantity in quantities if quantity in own}
    return given


def _how_to_say(methods: Mapping[str, Keys]) -> str:
    """The line of the campaign file that makes it clear, with keys that are there, of one method where it has them."""
    by_size = sorted(methods.values(), key=len, reverse=True)
    said = []
    for quantities in (("free_energy", "energy"), ("forces",), ("stress", "virial")):
        found = ((each, keys[each]) for keys in by_size for each in quantities if each in keys)
        said += [f"{quantity.removeprefix('free_')}: {key}" for quantity, key in islice(found, 1)]
    return f"; say which are meant, as in labels: [{{path: ..., {', '.join(said)}}}]"


def _list(methods: list[Keys]) -> str:
    return ", ".join(keys[quantity] for keys in methods for quantity in QUANTITIES if quantity in keys)


def _keys_there(values: Mapping[str, Any], chosen: Keys | None = None) -> str:
    """The keys that may be what lacks, as the end of a reason."""
    left = [key for key in values if key not in (chosen or {}).values() and np.asarray(values[key]).dtype.kind in "fi"]
    return f" (other keys there: {', '.join(sorted(left)[:12])})" if left else ""


def _energy(values: Mapping[str, Any], chosen: Keys) -> tuple[float | None, str]:
    key = chosen.get("free_energy") or chosen.get("energy")
    if key is None:
        return None, ""
    value = np.asarray(values[key])
    if value.dtype.kind not in "fi" or value.size != 1:
        return None, f"with {key} that is no number"
    return float(value.reshape(())), ""


def _forces(values: Mapping[str, Any], chosen: Keys, count: int) -> tuple[Floats | None, str]:
    if "forces" not in chosen:
        return None, ""
    key = chosen["forces"]
    value = np.asarray(values[key])
    if value.dtype.kind not in "fi" or value.shape != (count, 3):
        return None, f"with {key} of shape {value.shape}, where three numbers for each atom are wanted"
    return np.array(value, dtype=float), ""


def _stress(values: Mapping[str, Any], chosen: Keys, atoms: Atoms) -> tuple[Floats | None, str]:
    """Stress, or minus the virial over the volume, as GAP and MACE have it; both must agree where both are there."""
    tensors: dict[str, Floats] = {}
    for quantity in ("stress", "virial"):
        if key := chosen.get(quantity):
            tensor = _tensor(values[key])
            if tensor is None:
                shape = np.shape(values[key])
                return None, f"with {key} of shape {shape}, where six (xx yy zz yz xz xy) or nine numbers are wanted"
            if np.abs(tensor - tensor.T).max() > 1e-3 * max(np.abs(tensor).max(), 1e-6):
                return None, f"with {key} that is not symmetric"
            tensors[quantity] = tensor
    if "virial" in tensors:
        if atoms.cell.volume < 1e-3:
            return None, ""
        tensors["virial"] = -tensors["virial"] / atoms.cell.volume
    if len(tensors) == 2 and not np.allclose(tensors["stress"], tensors["virial"], rtol=1e-3, atol=1e-5):
        raise UnclearKeysError(
            f"{chosen['stress']} is not minus {chosen['virial']} over the volume, as it is where both are of the same "
            f"units and signs; name one of them, as in labels: [{{path: ..., stress: {chosen['stress']}}}]"
        )
    return next(iter(tensors.values()), None), ""


def _tensor(value: Any) -> Floats | None:
    """A stress of six numbers, in ASE's order, or of nine, as (3, 3); None for anything else."""
    array = np.asarray(value)
    if array.dtype.kind not in "fi" or array.shape not in {(6,), (9,), (3, 3)}:
        return None
    if array.shape == (6,):
        return np.array(voigt_6_to_full_3x3_stress(array.astype(float)))
    return array.astype(float).reshape(3, 3)
