"""Is it too large? What is far beyond any use, and would end in minutes without an answer, or for want of memory.

Findings are at the key that a person would change.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import cbrt, pi
from typing import Final

from csp_al.campaign.atomic_sizes import volume_range
from csp_al.campaign.constraints import resolve
from csp_al.campaign.errors import Finding
from csp_al.campaign.models import Pool, Stop, species_counts
from csp_al.campaign.potentials import PotentialSection, potential_kind

MOST_NEIGHBOURS: Final = 5000
"""Of an atom in the densest cell: with them a batch of relaxations (20 000 atoms) takes some 5 GB."""

MOST_IN_CELL: Final = 10_000
"""Atoms."""

MANY_IN_CELL: Final = 100
"""Atoms. The largest cells of the method's paper have 46."""

MOST_ATOMS: Final = 100_000_000
"""Of all candidates of a pool: each takes some 200 bytes, several times over."""

MOST_WEIGHTS: Final = 4_000_000_000
"""Bytes. Training takes four times as much; the default ensemble has 3 MB."""

MOST_CYCLES: Final = 1_000_000


def too_many_atoms(pool: Pool) -> Iterator[Finding]:
    """Whether a cell, or a pool, has more atoms than can be worked with."""
    each = resolve(pool).n_atoms
    if each > MOST_IN_CELL:
        yield Finding(("pool", "formula"), f"{each} atoms in a cell; at most {MOST_IN_CELL} are taken")
    elif pool.size * each > MOST_ATOMS:
        message = f"{pool.size} candidates of {each} atoms fit into no memory; ask for at most {MOST_ATOMS // each}"
        yield Finding(("pool", "size"), message)


def doubts(pool: Pool) -> Iterator[Finding]:
    """What may be meant, but is not usual: a cell's volume as that of an atom, cells that take long."""
    each, given = resolve(pool).n_atoms, pool.volume_per_atom
    least, most = volume_range(species_counts(pool.formula))
    if given and given[0] > most and least <= given[1] / each and given[0] / each <= most:
        atoms = f"[{given[0] / each:.3g}, {given[1] / each:.3g}]"
        message = f"{given[0]:g} to {given[1]:g} Å^3 is what a cell of {each} atoms takes, not an atom: perhaps {atoms}"
        yield Finding(("volume_per_atom",), message)
    if each > MANY_IN_CELL:
        message = f"{each} atoms in a cell: random cells of so many hardly ever hold a low crystal, and each label and"
        yield Finding(("formula",), f"{message} relaxation takes long; 'csp-al plan' tells what it may cost")


def too_far(pool: Pool, potential: PotentialSection) -> Iterator[Finding]:
    """Whether the cutoff gives atoms more neighbours than can be worked with."""
    cutoff = getattr(potential, "cutoff", None)
    least = resolve(pool).volume_per_atom[0]
    if cutoff is None or (count := 4 / 3 * pi * cutoff**3 / least) <= MOST_NEIGHBOURS:
        return
    most = cbrt(MOST_NEIGHBOURS * least / (4 / 3 * pi))
    yield Finding(
        ("potential", "cutoff"),
        f"a cutoff of {cutoff:g} Å gives each atom {count:.2g} neighbours, at {least:g} Å^3/atom; at most "
        f"{MOST_NEIGHBOURS} are taken, which is {most:.0f} Å here, and 5 to 8 Å are usual",
    )


def too_heavy(potential: PotentialSection) -> Iterator[Finding]:
    """Whether the weights of the ensemble fit into memory."""
    weights = potential_kind(potential).weights_bytes(potential)
    if weights > MOST_WEIGHTS:
        message = f"weights of {weights / 1e9:.3g} GB; at most {MOST_WEIGHTS / 1e9:g} GB are taken"
        yield Finding(("potential", "features"), f"{message}: ask for fewer features, interactions or members")


def too_long(stop: Stop) -> Iterator[Finding]:
    """Whether so many cycles can be counted at all."""
    if stop.max_cycles > MOST_CYCLES:
        yield Finding(("stop", "max_cycles"), f"{stop.max_cycles:.3g} cycles; at most {MOST_CYCLES} are taken")
