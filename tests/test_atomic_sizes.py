"""Default distances and volumes hold what is known of crystals, whatever their chemistry."""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import sqrt

import numpy as np
import pytest
from ase.data import atomic_numbers, chemical_symbols, reference_states
from ase.formula import Formula
from ase.units import Bohr, Hartree

from csp_al.campaign.atomic_sizes import least_distance, volume_range
from csp_al.campaign.constraints import conflicts
from csp_al.campaign.models import Pool
from csp_al.reference.ase_calculator import AseReference

PACKINGS = {"fcc": (4, 1 / sqrt(2)), "bcc": (2, sqrt(3) / 2), "diamond": (8, sqrt(3) / 4), "sc": (1, 1)}
"""Atoms in a cubic cell of edge 1, and their nearest distance."""
NAMES = [
    symbol
    for symbol in chemical_symbols[1:95]
    if (reference_states[atomic_numbers[symbol]] or {}).get("symmetry") in (*PACKINGS, "hcp")
    and symbol not in ("B", "Se", "Te")
]
"""Those three are none of these crystals; ASE gives the edges of another."""
VOLUMES = {  # Å^3 per atom, experiment: elements that ASE has not, ionic, covalent, metallic, hydrides, molecules
    "N": 22.7, "O": 17.4, "F": 16.1, "P": 19.0, "S": 25.8, "Cl": 28.9, "Br": 32.6, "I": 42.6, "Se": 27.3, "Te": 34.0,
    "B": 7.3, "Ga": 19.6, "As": 21.5, "In": 26.2, "Sn": 27.0, "Sb": 30.2, "Bi": 35.4, "Hg": 23.4, "Mn": 12.2,
    "Sm": 33.2, "Pa": 25.0, "U": 20.8, "Np": 19.2, "Pu": 20.0, "Po": 37.9,
    "NaCl": 22.4, "CsF": 27.1, "CsCl": 35.0, "LiF": 8.2, "KI": 44.1, "BaO": 21.2, "MgO": 9.3, "Li2O": 8.2, "K2O": 22.2,
    "CaF2": 13.6, "PbI2": 41.8, "CdI2": 35.5, "CsPbI3": 49.8, "AgCl": 21.4, "CaCO3": 12.3, "NaBH4": 9.7,
    "SiO2": 12.6, "TiO2": 10.4, "Al2O3": 8.5, "BaTiO3": 12.8, "MgAl2O4": 9.4, "ZnO": 11.9, "Fe2O3": 10.1, "CeO2": 13.2,
    "UO2": 13.7, "Y2O3": 14.9, "CuO": 10.1, "SnO2": 11.9,
    "GaAs": 22.6, "GaN": 11.4, "SiC": 10.4, "BN": 5.9, "InSb": 34.0, "CdTe": 34.0, "PbS": 26.2, "MoS2": 17.7,
    "Bi2Te3": 33.9, "TiC": 10.1, "WC": 10.4, "TiN": 9.5, "UN": 14.6, "LaB6": 10.3, "MgB2": 9.7,
    "NiAl": 12.0, "CuAu": 14.4, "Mg2Si": 21.4, "LaNi5": 14.5, "FeSi": 11.3, "Nb3Sn": 18.5, "U6Fe": 19.9,
    "LiH": 8.5, "NaH": 14.6, "CsH": 32.4, "MgH2": 10.3, "TiH2": 7.4, "PdH": 8.6,
    "CO2": 14.8, "H2O": 10.7, "CH4": 10.2, "NH3": 8.4, "C6H6": 10.2, "HCl": 20.4, "SF6": 14.8, "SiF4": 15.8,
    "UF6": 16.5, "XeF2": 21.7, "KrF2": 20.4,
}  # fmt: skip
BONDS = {  # Å, among the shortest known
    "H-H": 0.74, "H-C": 1.09, "H-N": 1.01, "H-O": 0.96, "H-F": 0.92, "C-C": 1.20, "C-N": 1.15, "C-O": 1.13, "N-N": 1.10,
    "N-O": 1.15, "N-F": 1.37, "O-F": 1.41, "O-O": 1.21, "F-F": 1.41, "P-O": 1.45, "S-O": 1.42, "Cl-O": 1.41,
    "Xe-F": 1.95, "Kr-F": 1.88,
    "Xe-O": 1.74, "V-O": 1.57, "Cr-O": 1.60, "Mn-O": 1.60, "Os-O": 1.71, "U-O": 1.77, "U-U": 2.75, "Np-Np": 2.60,
    "Pu-Pu": 2.57, "Li-O": 1.9, "Na-Cl": 2.36, "Cs-F": 2.34,
}  # fmt: skip


def crystal(symbol: str) -> tuple[float, float]:
    """Volume of an atom (Å^3) and nearest distance (Å) in the crystal of an element, as ASE has it."""
    state = reference_states[atomic_numbers[symbol]]
    a = state["a"]
    if state["symmetry"] == "hcp":
        return sqrt(3) / 4 * a**3 * state["c/a"], min(a, a * sqrt(1 / 3 + state["c/a"] ** 2 / 4))
    count, nearest = PACKINGS[state["symmetry"]]
    return a**3 / count, a * nearest


@pytest.mark.parametrize("symbol", NAMES)
def test_crystals_of_the_elements_lie_within_the_defaults(symbol):
    volume, nearest = crystal(symbol)
    least, most = volume_range({symbol: 1})
    assert 1.05 * least < volume < most / 1.05
    assert least_distance(symbol, symbol) < 0.85 * nearest


@pytest.mark.parametrize("formula", VOLUMES)
def test_known_volumes_lie_within_the_defaults(formula):
    least, most = volume_range(Formula(formula).count())
    assert 1.05 * least < VOLUMES[formula] < most / 1.05


@pytest.mark.parametrize("pair", BONDS)
def test_short_bonds_are_no_close_contacts(pair):
    assert least_distance(*pair.split("-")) < 0.98 * BONDS[pair]


def test_noble_gases_keep_apart_and_yet_bind_to_fluorine():
    assert least_distance("Ar", "Ar") == pytest.approx(0.7 * 2 * 1.88)  # van der Waals, Bondi (1964)
    assert least_distance("Ne", "Xe") > 2.5
    assert least_distance("Ar", "Na") > 2.4
    assert least_distance("Xe", "F") == least_distance("F", "Xe") < 1.5


def test_at_their_least_distance_nuclei_push_no_pair_apart_by_much_more_than_the_largest_force_of_a_label():
    most = AseReference.model_fields["max_force"].default
    pairs = combinations_with_replacement(chemical_symbols[1:95], 2)
    assert max(screened_force(one, other, least_distance(one, other)) for one, other in pairs) < 1.2 * most


def screened_force(one: str, other: str, distance: float) -> float:
    """eV/Å between two bare nuclei, screened: Ziegler, Biersack and Littmark (1985). Bonds take some of it away."""
    z, w = atomic_numbers[one], atomic_numbers[other]
    length = 0.8854 * Bohr / (z**0.23 + w**0.23)
    terms = np.array([0.18175, 0.50986, 0.28022, 0.02817])
    exponents = np.array([3.19980, 0.94229, 0.40290, 0.20162]) / length
    screening = terms * np.exp(-exponents * distance)
    return float(z * w * Hartree * Bohr / distance * (screening * (1 / distance + exponents)).sum())


def test_default_distances_leave_room_in_the_default_volumes():
    for formula in (*VOLUMES, *(f"{symbol}H9" for symbol in NAMES), "HeCs", "XeH30"):
        assert not conflicts(Pool(formula=formula)), formula


def test_no_range_spans_so_much_that_most_candidates_are_far_from_any_crystal():
    for formula in VOLUMES:
        least, most = volume_range(Formula(formula).count())
        assert 4 < most / least < 5.01, formula
