"""How the crystals of a run were computed, in words and as items of a CIF file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from csp_al.campaign.models import Campaign
from csp_al.printing import printable
from csp_al.store.run_directory import packages_of, programs_of

IRRELEVANT = ("pseudo_dir", "time_limit", "max_force", "max_stress", "max_fail_fraction", "remedies")
"""Keys of a reference section on which no energy depends."""


@dataclass(frozen=True)
class Method:
    """Of a run: its name, the version of this package, the programs of its reference, and the settings of that."""

    run: str
    version: str
    programs: Mapping[str, str]
    settings: Mapping[str, Any]


def method_of(run: Path, campaign: Campaign) -> Method:
    """The method of a run directory: programs and versions are those with which it began, without the foundation's."""
    packages = packages_of(run)
    kind, foundation = campaign.reference.kind, campaign.foundation
    found = {
        name: version for name, version in programs_of(run).items() if not foundation or name != foundation.package
    }
    found = found or {kind: packages.get(kind) or "of unknown version"}
    programs = {printable(name): printable(version) for name, version in found.items()}
    settings = {key: value for key, value in campaign.written()["reference"].items() if key not in IRRELEVANT}
    return Method(campaign.name, printable(packages.get("csp_al") or "unknown"), programs, settings)


def block_name(method: Method, row: Mapping[str, Any]) -> str:
    """Of the data block of a ranked crystal."""
    return f"{method.run}_{Path(row['cif']).stem}"


def method_items(method: Method) -> dict[str, object]:
    """What every CIF file of a run says."""
    return {
        "_audit_creation_method": f"csp_al {method.version}",
        "_tcod_software_package": " and ".join(method.programs),
        "_tcod_software_package_version": " and ".join(method.programs.values()),
        # a semicolon at the beginning of a line would end the text there
        "_csp_al_reference": json.dumps(method.settings).replace(";", r"\u003b"),
    }


def result_items(row: Mapping[str, Any], method: Method) -> dict[str, object]:
    """Items of a crystal that the reference relaxed; the energy is that of the cell as computed."""
    return {
        "_csp_al_energy_per_atom_eV": f"{row['energy_per_atom']:.6f}",
        "_csp_al_energy_above_lowest_eV": f"{row['energy_above_best']:.6f}",
        "_csp_al_largest_force_eV_per_angstrom": f"{row['fmax']:.4f}",
        "_csp_al_relaxation_converged": "yes" if row["converged"] else "no",
        "_csp_al_candidate": row["id"],
        **method_items(method),
    }


def prediction_items(info: Mapping[str, Any], method: Method) -> dict[str, object]:
    """Items of a crystal that the ensemble relaxed, from what its ``info`` says: the energy is a prediction."""
    sigma = info["predicted_sigma"]
    return {
        "_csp_al_predicted_energy_per_atom_eV": f"{info['predicted_energy_per_atom']:.6f}",
        "_csp_al_predicted_sigma_per_atom_eV": "." if isnan(sigma) else f"{sigma:.6f}",
        "_csp_al_candidate": info["id"],
        **method_items(method),
    }
