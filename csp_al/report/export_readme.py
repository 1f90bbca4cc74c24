"""What the README of an export says: what the files are, how they were found and computed, and how to cite it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from csp_al.cif import STRICT, SYMPREC
from csp_al.printing import printable_lines
from csp_al.report.description import describe
from csp_al.report.export_formats import ENDINGS, OPTIMADE
from csp_al.report.method_in_words import as_yaml, papers_of
from csp_al.report.tables import Run
from csp_al.store.method import method_of

WHAT: Final = {
    "winners": "the crystals that the reference method relaxed, ranked by its energy",
    "relaxed": "the distinct minima as the ensemble relaxed them in the last cycle: energies are predictions",
    "labels": "the single points by which the ensemble was trained",
    "pool": "the candidates as they were generated",
    "pairs": "unrelaxed and relaxed structures, for `csp-al relaxer`: origin=surrogate where the ensemble relaxed a "
    "candidate, whose end is a prediction; origin=reference where the reference method relaxed a winner",
}
FORMS: Final = {
    "cif": "CIF",
    "poscar": "POSCAR, for VASP",
    "extxyz": "extended XYZ, as `ase.io.read` takes it",
    "ase-db": "a database, for `ase.db.connect` and `ase db`",
    "pymatgen": "a list of pymatgen's structures, for `monty.serialization.loadfn`",
    "optimade": f"structures as OPTIMADE {OPTIMADE} has them; what that does not define is called `_cspal_...`",
    "xrd": "powder patterns, computed: 2θ (°) and intensity in two columns, and a picture each",
    "png": "energies against volume and by rank, as a picture",
    "pdf": "energies against volume and by rank, as a picture",
}
TEXT: Final = """\
# Structures of {name}
Written by csp_al {version} from the run directory `{directory}`.

| files | what |
|---|---|
{files}

## How they were found
{search}
{winners}
## How they were computed
Reference method: {programs}. Its settings, as in the campaign file:

```yaml
{settings}
```

Energies are in eV, forces in eV/Å, stresses in eV/Å^3 (160 GPa are 1), positive when stretched (ASE's sign).

CIF files of winners and of relaxed candidates have the conventional cell. Its symmetry is what spglib finds within
{symprec} Å, and atoms and cell were moved to where it puts them; the item `_csp_al_strict_space_group_number` is what
it finds within {strict} Å in the atoms as computed. The energy is that of the cell as computed, which lies in
`as-computed` beside. In pictures crystals are named by the numbers of their space groups.

## How to cite
{papers}

## Checksums
`sha256sum -c SHA256SUMS`
"""
NOTE: Final = """
Prototypes are those of the AFLOW library, as pymatgen matches them; a crystal that is isopointal to one has the same
space group and Wyckoff letters. Neighbours are counted by pymatgen's CrystalNN.
"""


def readme(run: Run, files: Sequence[str]) -> str:
    """The text, for files with these names, which begin with a key of `WHAT`."""
    method = method_of(run.path, run.campaign)
    tops = sorted({name.partition("/")[0] for name in files})
    return printable_lines(
        TEXT.format(
            name=method.run,
            version=method.version,
            directory=run.path.resolve().name,
            files="\n".join(f"| `{top}` | {_content(top)} |" for top in tops),
            search=_search(run),
            winners=_winners(run),
            programs=", ".join(f"{name} {version}" for name, version in method.programs.items()),
            settings=as_yaml(method.settings),
            symprec=SYMPREC,
            strict=STRICT,
            papers="\n".join(f"- {paper}" for paper in papers_of(run.campaign, method)),
        )
    )


def _content(name: str) -> str:
    """What a file or folder of an export holds, by its name."""
    what = name.partition("-")[0].partition(".")[0]
    form = next(form for form, ending in ENDINGS.items() if name == f"{what}{ending}")
    return f"{WHAT[what]}: {FORMS[form]}"


def _search(run: Run) -> str:
    campaign, cycles = run.campaign, run.cycles
    began = f"{campaign.candidates[0].upper()}{campaign.candidates[1:]}, seed {campaign.seed}"
    if cycles.empty:
        return f"{began}; no cycle has ended yet."
    ended = run.summary["stop"] if run.summary else "not ended yet"
    counts = f"{len(cycles)} cycles, {cycles['labels_done'].iloc[-1]} labels"
    said = run.judgement
    judged = f" Judgement: {said.word} ({'; '.join(reason.what for reason in said.reasons)})." if said else ""
    spent = f"{run.reference_evaluations} reference evaluations"
    return f"{began}; {counts}, {spent}. Why the search stopped: {ended}.{judged}"


def _winners(run: Run) -> str:
    """Tables of the ranked crystals: how low they are, and what they are; empty before there are any."""
    rows, crystals = run.result_rows, {atoms.info["id"]: atoms for atoms in run.winners}
    if not rows or any(row["id"] not in crystals for row in rows):
        return ""
    told = [describe(crystals[row["id"]]) for row in rows]
    head = f"\n| crystal | eV/atom | above, meV/atom | group within {SYMPREC} Å | within {STRICT} Å | converged |"
    lines = [
        f"| {Path(row['cif']).stem} | {row['energy_per_atom']:.4f} | {1000 * row['energy_above_best']:.1f} "
        f"| {row['space_group']['symbol']} | {one.strict_space_group.symbol} "
        f"| {'yes' if row['converged'] else 'no'} |"
        for row, one in zip(rows, told, strict=True)
    ]
    kinds = [
        f"| {Path(row['cif']).stem} | {one.kind} | {one.label or '-'} | {one.density:.3f} | {one.neighbours} |"
        for row, one in zip(rows, told, strict=True)
    ]
    kind_head = "| crystal | prototype | formula, Pearson symbol, group, Wyckoff letters | g/cm^3 | neighbours |"
    return "\n".join([head, "|---|---|---|---|---|---|", *lines, "", kind_head, "|---|---|---|---|---|", *kinds, NOTE])
