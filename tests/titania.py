"""Crystals of TiO2 as they were measured, for tests.

Rutile: S. C. Abrahams and J. L. Bernstein, J. Chem. Phys. 55, 3206 (1971). Anatase: M. Horn, C. F. Schwerdtfeger and
E. P. Meagher, Z. Kristallogr. 136, 273 (1972). Brookite: E. P. Meagher and G. A. Lager, Can. Mineral. 17, 77 (1979).
Columbite (TiO2-II): I. E. Grey et al., Mater. Res. Bull. 23, 743 (1988). Baddeleyite: the cell of H. Sato et al.,
Science 251, 786 (1991), with the sites of ZrO2, C. J. Howard et al., Acta Cryst. B 44, 116 (1988).
"""

from ase import Atoms
from ase.spacegroup import crystal

SITES = {
    "rutile": (136, (4.593, 4.593, 2.959, 90, 90, 90), [("Ti", (0, 0, 0)), ("O", (0.3048, 0.3048, 0))]),
    "anatase": (141, (3.7842, 3.7842, 9.5146, 90, 90, 90), [("Ti", (0, 0, 0)), ("O", (0, 0, 0.2081))]),
    "brookite": (
        61,
        (9.174, 5.449, 5.138, 90, 90, 90),
        [("Ti", (0.1289, 0.0972, 0.8628)), ("O", (0.0095, 0.1491, 0.1835)), ("O", (0.2314, 0.1110, 0.5366))],
    ),
    "columbite": (60, (4.541, 5.493, 4.906, 90, 90, 90), [("Ti", (0, 0.1704, 0.25)), ("O", (0.2716, 0.3814, 0.4142))]),
    "baddeleyite": (
        14,
        (4.64, 4.76, 4.81, 90, 99.2, 90),
        [("Ti", (0.2754, 0.0395, 0.2083)), ("O", (0.0700, 0.3317, 0.3447)), ("O", (0.4496, 0.7569, 0.4792))],
    ),
}


def titania(name: str, scale: float = 1.0) -> Atoms:
    """A crystal, all of whose lengths are scaled."""
    group, cell, sites = SITES[name]
    symbols, places = zip(*sites, strict=True)
    found = crystal(symbols, places, spacegroup=group, cellpar=cell)
    return Atoms(found.numbers, scaled_positions=found.get_scaled_positions(), cell=scale * found.cell.array, pbc=True)
