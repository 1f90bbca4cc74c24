"""CSPBench: is the listed crystal found, from its composition alone? A universal potential for everything.

    pip install 'csp_al[chgnet]'
    python analysis/benchmarks/cspbench.py --atoms 10              # all with at most ten atoms, smallest first: hours
    python analysis/benchmarks/cspbench.py LiGaSi CsUF6 --cores 2
    python analysis/benchmarks/cspbench.py --last sevennet-l3i5    # relaxes and ranks the lowest (csp_al[sevennet])
    python analysis/benchmarks/cspbench.py --table                 # of what was run before

A list of 120 of the 180 crystals of CSPBench (Wei et al., arXiv:2407.00733, MIT licence), `cspbench-list.csv`, beside
this file. One campaign each, all with the same settings (`CAMPAIGN`): no labels, a universal potential relaxes the pool
and its offspring, and that or another one is the reference that relaxes the lowest. The list has no structures: the
lowest of sixty draws of the listed space group, relaxed likewise, stands in for the listed crystal. A search that ends
above it did not find what was there (*search*); one that ends below it found what the potential holds to be lower
(*order*).

Each core runs one campaign; what was run before is not run again. A row of `benchmarks/cspbench/MODELS/found.csv` for
each.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import resource
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

if TYPE_CHECKING:
    from csp_al.campaign import Campaign

LIST = Path(__file__).with_name("cspbench-list.csv")
CAMPAIGN = """
name: {formula}
pool: {{formula: {formula}, size: 200, grow: {{offspring: 50, generations: 4, parents: 30}}}}
foundation: {{model: {model}}}
reference: {{kind: ase, {reference}}}
budget: {{labels: 0}}
finish: {{crystals: 10, fmax: 0.01, max_steps: 300}}
"""
SEVENNET = "calculator: sevenn.calculator.SevenNetCalculator, parameters: {{device: cpu, model: {}}}"
REFERENCES = {
    "chgnet": "calculator: chgnet.model.dynamics.CHGNetCalculator, parameters: {use_device: cpu}",
    "sevennet-0": SEVENNET.format("7net-0"),
    "sevennet-l3i5": SEVENNET.format("7net-l3i5"),
}
"""The same models as ASE calculators."""
AGAIN = 3
"""The lowest of the draws, which the reference relaxes."""
DRAWS = 60
"""Of the listed space group."""
SEED = 1000
"""Of these draws; campaigns have the default."""
SAME = 0.002
"""eV/atom, within which a crystal is as low as another."""
SYMPRECS = (0.1, 0.3)
"""Å, within which a draw is of the listed space group still."""
PUBLISHED = {"CSPML": 100, "TCSP": 85, "ParetoCSP": 18, "GNOA": 5, "AGOX": 4}
"""Listed space groups found of 180, by the paper's own count."""


@dataclass(frozen=True)
class Found:
    """What a campaign found; energies in eV/atom, ``core_s`` core seconds, ``peak_gb`` memory of its largest process.

    ``groups`` are the space groups of the results, lowest first; ``listed_energy`` is that of what stands in for the
    listed crystal, nan where no draw kept the group.
    """

    id: str
    formula: str
    atoms: int
    category: str
    system: str
    listed: int
    groups: str
    energy: float
    listed_energy: float
    evaluations: int
    core_s: int
    peak_gb: float
    failed: str = ""

    @property
    def told(self) -> list[int]:
        """The space groups of the results."""
        return [int(number) for number in self.groups.split()]

    @property
    def is_low(self) -> bool:
        """Whether the first is no higher than the listed crystal."""
        return not self.energy > self.listed_energy + SAME

    @property
    def cause(self) -> str:
        """Why the first is of another group, in a word."""
        if self.failed or self.listed in self.told[:1]:
            return self.failed
        if not self.is_low:
            return "search"
        return "order" if self.energy < self.listed_energy - SAME else "symmetry, or none to tell"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("formulas", nargs="*", help="default: all of the list")
    parser.add_argument("--atoms", type=int, default=100, help="at most so many in the primitive cell")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument(
        "--model", choices=list(REFERENCES), default="chgnet", help="relaxes the pool and its offspring"
    )
    parser.add_argument("--last", choices=list(REFERENCES), help="relaxes and ranks the lowest; default: the same")
    parser.add_argument("--table", action="store_true", help="of what was run before, and no more")
    parser.add_argument("--directory", type=Path, default=Path("benchmarks") / "cspbench")
    arguments = parser.parse_args()
    last = arguments.last or arguments.model
    directory = arguments.directory / (arguments.model if last == arguments.model else f"{arguments.model}-{last}")
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "found.csv"
    before = read(file)
    known = {one.id for one in before}
    with LIST.open(encoding="utf-8", newline="") as opened:
        rows = sorted(csv.DictReader(opened), key=lambda row: int(row["atoms"]))
    wanted = [row for row in rows if not arguments.formulas or row["formula"] in arguments.formulas]
    wanted = [row for row in wanted if int(row["atoms"]) <= arguments.atoms and row["material_id"] not in known]
    if not arguments.table:
        # a process each, whose memory and core time are told apart
        with ProcessPoolExecutor(
            arguments.cores, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
        ) as pool:
            for future in as_completed([pool.submit(search, row, directory, arguments.model, last) for row in wanted]):
                add(file, future.result())
                print(line(future.result()), flush=True)
    print("\n".join(table(read(file), len(rows))))


def search(row: dict[str, str], directory: Path, model: str, last: str) -> Found:
    """One campaign, and what stands in for the listed crystal."""
    import torch

    import csp_al

    torch.set_num_threads(1)
    name, listed = row["formula"], int(row["space_group"])
    folder = directory / row["material_id"]
    folder.mkdir(exist_ok=True)
    source = folder / f"{name}.yaml"
    source.write_text(CAMPAIGN.format(formula=name, model=model, reference=REFERENCES[last]))
    failed, groups, energy, evaluations = "", "", np.nan, 0
    try:
        run = csp_al.run(source, folder / "run", slots=1, device="cpu")
    except Exception as error:  # noqa: BLE001 - one that ends without a result is a row as well
        failed = " ".join(str(error).split())[:200]
    else:
        groups = " ".join(str(one["space_group"]["number"]) for one in run.result_rows)
        energy, evaluations = run.result_rows[0]["energy_per_atom"], run.reference_evaluations
    lowest = standing_in(source, listed)
    usage = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Found(
        id=row["material_id"],
        formula=name,
        atoms=int(row["atoms"]),
        category=row["category"],
        system=row["crystal_system"],
        listed=listed,
        groups=groups,
        energy=round(energy, 4),
        listed_energy=round(lowest, 4),
        evaluations=evaluations,
        core_s=round(sum(one.ru_utime + one.ru_stime for one in usage)),
        peak_gb=round(max(one.ru_maxrss for one in usage) / 1024**2, 2),
        failed=failed,
    )


def standing_in(source: Path, listed: int) -> float:
    """Energy of the lowest of `DRAWS` crystals of a space group; nan where none kept the group."""
    from csp_al.campaign import read_campaign, resolve
    from csp_al.campaign.machine import Machine
    from csp_al.foundation.universal import build_foundation
    from csp_al.generate.symmetric_cells import symmetric_cell
    from csp_al.interfaces import UnplaceableError, trusted
    from csp_al.loop.bodies import relaxation_limits
    from csp_al.relax.relaxation import relax
    from csp_al.structures import Structures

    campaign = read_campaign(source)
    drawn: list[Atoms] = []
    for number in range(DRAWS):
        with suppress(UnplaceableError):
            rng = np.random.default_rng([SEED, number])
            drawn.append(symmetric_cell(resolve(campaign.pool), rng, groups=[listed]))
    if not drawn:
        return np.nan
    assert campaign.foundation is not None  # of all these campaigns
    foundation = build_foundation(campaign.foundation, Machine(), source.parent)
    try:
        tight = campaign.relax.model_copy(update={"fmax": campaign.finish.fmax})
        ended = relax(Structures.from_atoms(drawn), foundation, tight, relaxation_limits(campaign))
    finally:
        foundation.close()
    energies = ended.prediction.energy / ended.structures.counts
    order = np.argsort(np.where(trusted(ended.reason), energies, np.inf))
    kept = [atoms for atoms in ended.structures.take(order).to_atoms() if listed in set(group_numbers(atoms))]
    return min((relaxed_energy(atoms, campaign) for atoms in kept[:AGAIN]), default=np.nan)


def relaxed_energy(atoms: Atoms, campaign: Campaign) -> float:
    """eV/atom, as of a winner."""
    from csp_al.reference.ase_calculator import AseCalculator, AseReference
    from csp_al.reference.evaluate import relax

    assert isinstance(campaign.reference, AseReference)
    finish = campaign.finish
    with tempfile.TemporaryDirectory() as folder:
        reference = AseCalculator(campaign.reference)
        rested = relax(reference, atoms, Path(folder), fmax=finish.fmax, max_steps=finish.max_steps)
    return rested.energy / len(atoms)


def group_numbers(atoms: Atoms) -> Iterator[int]:
    import spglib

    for symprec in SYMPRECS:
        found = spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec)
        if found:
            yield int(found.number)


def read(file: Path) -> list[Found]:
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as opened:
        kinds = {"atoms": int, "listed": int, "evaluations": int, "core_s": int}
        kinds |= {"energy": float, "listed_energy": float, "peak_gb": float}
        return [
            Found(**{name: kinds.get(name, str)(text) for name, text in row.items()})  # type: ignore[arg-type]
            for row in csv.DictReader(opened)
        ]


def add(file: Path, found: Found) -> None:
    is_new = not file.exists()
    with file.open("a", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, [field.name for field in fields(Found)], lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(asdict(found))


def line(found: Found) -> str:
    place = found.told.index(found.listed) + 1 if found.listed in found.told else "none"
    return (
        f"{found.formula} ({found.atoms} atoms, {found.listed}): place {place} of {found.groups or 'no result'}; "
        f"{found.energy:.4f}, listed {found.listed_energy:.4f} eV/atom; {found.evaluations} evaluations, "
        f"{found.core_s} s, {found.peak_gb} GB {found.cause}"
    )


def table(found: list[Found], all_listed: int) -> Iterator[str]:
    """By category, and of all."""
    yield f"{len(found)} of {all_listed} were run."
    yield "| category | crystals | first | of first three | of first five | its system | no higher | not first |"
    yield "|---|---|---|---|---|---|---|---|"
    for category in [*sorted({one.category for one in found}), "all"]:
        these = [one for one in found if category in (one.category, "all")]
        among = [sum(one.listed in one.told[:most] for one in these) for most in (1, 3, 5)]
        system = sum(system_of(one.told[0]) == one.system for one in these if one.told)
        causes = [cause for one in these if (cause := one.cause)]
        words = ", ".join(f"{causes.count(cause)} {cause}" for cause in sorted(set(causes)))
        low = sum(one.is_low and not one.failed for one in these)
        yield f"| {category} | {len(these)} | {' | '.join(map(str, [*among, system, low]))} | {words} |"
    if found:
        seconds = sorted(one.core_s for one in found)
        yield f"Core seconds: median {seconds[len(seconds) // 2]}, most {seconds[-1]}."
        yield f"Most memory of a process: {max(one.peak_gb for one in found):.2f} GB."
    shares = ", ".join(f"{name} {count}" for name, count in PUBLISHED.items())
    yield f"Published, space groups found of 180: {shares}."


def system_of(number: int) -> str:
    last = {
        2: "Triclinic", 15: "Monoclinic", 74: "Orthorhombic", 142: "Tetragonal", 167: "Trigonal", 194: "Hexagonal",
        230: "Cubic",
    }  # fmt: skip
    return next(name for most, name in last.items() if number <= most)


if __name__ == "__main__":
    main()
