"""Does a campaign with all defaults of its pool go through, whatever the chemistry?

    pip install chgnet
    PYTHONPATH=analysis/benchmarks python analysis/benchmarks/chemistry.py [--nuclei] [--table FILE] [Na4Cl4 C2O4 ...]

Every element to plutonium, and compounds of all kinds, four to eight atoms in the cell: forty candidates, two cycles,
an ensemble that learns next to nothing, and CHGNet (Deng et al., Nat. Mach. Intell. (2023)) as the reference. What
counts is whether first cells are sane: labels that were rejected, cells that were opened, why a campaign ended before
its time. One process does everything, so that CHGNet is loaded once; workers of its own would take most of the time.

CHGNet has never seen Po, At, Rn, Fr and Ra: what it says of them means nothing, but a campaign must bear it. It has no
repulsion of nuclei either, so that near atoms are worse for DFT than for it; ``--nuclei`` adds that.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.mixing import SumCalculator
from ase.data import chemical_symbols, covalent_radii
from ase.neighborlist import neighbor_list
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import Bohr, Hartree

from csp_al.campaign import read_campaign
from csp_al.engine.attempt import reference_section
from csp_al.engine.tasks import RELAX, atoms_of, is_done, publish_result, read_task
from csp_al.interfaces import ReferenceFailedError, UnplaceableError
from csp_al.loop.contenders import NoResultError
from csp_al.loop.drive import Drive
from csp_al.loop.reference_check import WrongReferenceError
from csp_al.loop.search import search
from csp_al.loop.tasks import TooManyFailedError
from csp_al.reference.evaluate import relax, single_point
from csp_al.reference.references import build_reference
from csp_al.reference.sanity import why_insane
from csp_al.report.tables import open_run
from csp_al.results import Result
from csp_al.store.lock import locked
from csp_al.store.run_directory import prepare
from csp_al.structures import Status

CAMPAIGN = """
name: chemistry
pool: {{formula: {formula}, size: 40}}
reference: {{kind: ase, calculator: chemistry.{calculator}}}
potential: {{members: 2, features: 8, interactions: 1, cutoff: 5.0, steps: 30}}
relax: {{max_steps: 20}}
stop: {{top_k: 1, max_cycles: 2}}
finish: {{max_steps: 3}}
"""
COMPOUNDS = [
    "Na4Cl4", "Cs2F2", "Li4F4", "Ba2O2", "Mg2O2", "Li4O2", "Ca2F4", "Al2O3", "Si2O4", "Ti2O4", "Zn2O2", "U1O2",
    "BaTiO3", "CaCO3", "MgAl2O4", "CsPbI3", "Bi2Te3", "Mo1S2", "Ga2As2", "Si2C2", "B2N2", "Li2Ga2Si2", "Ni2Al2",
    "Cu2Au2", "LaNi5", "Nb3Sn", "Mg4Si2", "Fe2Si2", "Li4H4", "Mg2H4", "Pd4H4", "LaH3", "NaBH4", "Cs2H2", "C2O4", "H4O2",
    "CH4", "NH3", "H4F4", "SF6", "SiF4", "UF6", "Xe2F4", "Kr2F4", "Ar3Ne1",
]  # fmt: skip
ENDS = (NoResultError, TooManyFailedError, UnplaceableError, WrongReferenceError)


@cache
def chgnet() -> Calculator:
    """CHGNet 0.3.0, loaded once."""
    from chgnet.model.dynamics import CHGNetCalculator

    return CHGNetCalculator(use_device="cpu")


def with_nuclei() -> Calculator:
    """CHGNet and the repulsion of nuclei."""
    return SumCalculator([chgnet(), Nuclei()])


class Nuclei(Calculator):
    """Screened repulsion of nuclei: Ziegler, Biersack and Littmark (1985), brought to zero below lengths of bonds."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms: Atoms, *arguments: Any, **keywords: Any) -> None:
        super().calculate(atoms, *arguments, **keywords)
        reach = {
            pair: 0.9 * covalent_radii[list(pair)].sum() for pair in product(set(atoms.numbers.tolist()), repeat=2)
        }
        i, j, r, vectors = neighbor_list("ijdD", atoms, reach)
        z, w = atoms.numbers[i].astype(float), atoms.numbers[j].astype(float)
        ends = np.array([reach[pair] for pair in zip(atoms.numbers[i], atoms.numbers[j], strict=True)])
        exponents = np.array([3.19980, 0.94229, 0.40290, 0.20162]) * ((z**0.23 + w**0.23) / (0.8854 * Bohr))[:, None]
        terms = np.array([0.18175, 0.50986, 0.28022, 0.02817]) * np.exp(-exponents * r[:, None])
        bare = z * w * Hartree * Bohr / r
        fade, slope_of_fade = (1 + np.cos(np.pi * r / ends)) / 2, -np.pi / 2 / ends * np.sin(np.pi * r / ends)
        energies = bare * terms.sum(1)
        slopes = slope_of_fade * energies - fade * (energies / r + bare * (exponents * terms).sum(1))
        pulls = (slopes / r)[:, None] * vectors
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, i, pulls)
        stress = full_3x3_to_voigt_6_stress(pulls.T @ vectors / 2 / atoms.get_volume())
        self.results = {"energy": (fade * energies).sum() / 2, "forces": forces, "stress": stress}


class Here:
    """An engine that computes each task when it is submitted, in this process."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def submit(self, task: str) -> None:
        if not is_done(self.root, task):
            publish_result(self.root / task, computed(self.root, task))

    def tick(self) -> None:
        pass

    def lost(self) -> list[str]:
        return []

    close = leave = tick


def computed(root: Path, name: str) -> Result:
    """The result of a task, judged as a worker does; CHGNet's only failures are isolated atoms."""
    task = read_task(root, name)
    section, atoms = reference_section(task), atoms_of(task.inputs["structure"])
    reference, values, reason = build_reference(section), None, None
    try:
        if task.kind == RELAX:
            values = relax(reference, atoms, root / name, fmax=task.inputs["fmax"], max_steps=task.inputs["max_steps"])
        else:
            values = single_point(reference, atoms, root / name)
    except ReferenceFailedError as error:
        reason = error.reason
    if values:
        after = values.atoms(atoms.numbers)
        limits = section.max_force, section.max_stress
        reason = why_insane(after, values.energy, values.forces, values.stress, *limits)
    status = Status.FAILED if values is None else Status.REJECTED if reason else Status.DONE
    evaluations = values.evaluations if values else 1
    return Result(values, name, task.kind, status, reason, 0.0, evaluations, [], "here", "", "")


def campaign_of(formula: str, calculator: str) -> dict[str, Any]:
    """A row of the table: one campaign, from its pool to its results."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        source, run = Path(folder) / "chemistry.yaml", Path(folder) / "run"
        source.write_text(CAMPAIGN.format(formula=formula, calculator=calculator), encoding="utf-8")
        run.mkdir()
        campaign = read_campaign(source)
        ended = ""
        with locked(run):
            prepare(run, campaign, source, {})
            try:
                search(Drive(campaign, run, Path(folder), torch.device("cpu"), lambda _: None, Here(run / "tasks")))
            except ENDS as error:
                ended = " ".join(str(error).split())
        opened = open_run(run)
        labels = opened.labels
        return {
            "formula": formula,
            "cycles": len(opened.published("verdict")),
            "labels": len(labels),
            "rejected": int((labels["status"] == Status.REJECTED).sum()),
            "opened": opened.opened,
            "failed": int((labels["status"] == Status.FAILED).sum()),
            "crystals": len(opened.results),
            "reasons": "; ".join(sorted(set(labels["reason"]) - {""})),
            "ended": ended,
            "s": round(time.monotonic() - began, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("formulas", nargs="*", help="all if none is given")
    parser.add_argument("--table", type=Path, help="CSV file, written after each campaign")
    parser.add_argument("--nuclei", action="store_true", help="add the repulsion of nuclei to CHGNet")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    for formula in given.formulas or [*(f"{symbol}4" for symbol in chemical_symbols[1:95]), *COMPOUNDS]:
        rows.append(campaign_of(formula, "with_nuclei" if given.nuclei else "chgnet"))
        print(*(f"{key} {value}," for key, value in rows[-1].items() if value != ""), flush=True)
        if given.table:
            pd.DataFrame(rows).to_csv(given.table, index=False)
    table = pd.DataFrame(rows)
    print(f"{len(table)} campaigns, {(table['ended'] == '').sum()} to their end, {table['opened'].sum()} cells opened")


if __name__ == "__main__":
    main()
