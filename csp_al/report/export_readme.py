"""What the README of an export says: what the files are, how they were found and computed, and how to cite it."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Final

from csp_al.cif import STRICT, SYMPREC, strict_group
from csp_al.printing import printable_lines
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
PAPERS: Final = {
    "espresso": "Quantum ESPRESSO: P. Giannozzi et al., J. Phys.: Condens. Matter 29, 465901 (2017), "
    "doi:10.1088/1361-648X/aa8f79, and the pseudopotentials",
    "gpaw": "GPAW: J. J. Mortensen et al., J. Chem. Phys. 160, 092503 (2024), doi:10.1063/5.0182685",
    "vasp": "VASP: G. Kresse and J. Furthmüller, Phys. Rev. B 54, 11169 (1996), doi:10.1103/PhysRevB.54.11169, "
    "and the PAW datasets: G. Kresse and D. Joubert, Phys. Rev. B 59, 1758 (1999)",
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
- the method: S. S. Hessmann et al., npj Comput. Mater. (2025), arXiv:2408.04073
- the program: csp_al {version}
- ASE: A. H. Larsen et al., J. Phys.: Condens. Matter 29, 273002 (2017), doi:10.1088/1361-648X/aa680e
{papers}
## Checksums
`sha256sum -c SHA256SUMS`
"""


def readme(run: Run, files: Sequence[str]) -> str:
    """The text, for files with these names, which begin with a key of `WHAT`."""
    method = method_of(run.path, run.campaign)
    tops = sorted({name.partition("/")[0] for name in files})
    paper = PAPERS.get(run.campaign.reference.kind)
    return printable_lines(
        TEXT.format(
            name=method.run,
            version=method.version,
            directory=run.path.resolve().name,
            files="\n".join(f"| `{top}` | {WHAT[top.partition('-')[0].partition('.')[0]]} |" for top in tops),
            search=_search(run),
            winners=_winners(run),
            programs=", ".join(f"{name} {version}" for name, version in method.programs.items()),
            settings=_yaml(method.settings),
            symprec=SYMPREC,
            strict=STRICT,
            papers=f"- {paper}\n" if paper else "",
        )
    )


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
    """A table of the ranked crystals, with both tolerances; empty before there are any."""
    rows, crystals = run.result_rows, {atoms.info["id"]: atoms for atoms in run.winners}
    if not rows or any(row["id"] not in crystals for row in rows):
        return ""
    head = f"\n| crystal | eV/atom | above, meV/atom | group within {SYMPREC} Å | within {STRICT} Å | converged |"
    lines = [
        f"| {Path(row['cif']).stem} | {row['energy_per_atom']:.4f} | {1000 * row['energy_above_best']:.1f} "
        f"| {row['space_group']['symbol']} | {strict_group(crystals[row['id']]).symbol} "
        f"| {'yes' if row['converged'] else 'no'} |"
        for row in rows
    ]
    return "\n".join([head, "|---|---|---|---|---|---|", *lines, ""])


def _yaml(settings: Any) -> str:
    from ruamel.yaml import YAML

    text = StringIO()
    YAML(typ="safe", pure=True).dump(settings, text)
    return text.getvalue().rstrip()
