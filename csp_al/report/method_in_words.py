"""How a campaign was computed, for a paper: settings as YAML, and what to cite."""

from __future__ import annotations

from io import StringIO
from typing import Any, Final

from csp_al.campaign.models import Campaign
from csp_al.store.method import Method

REFERENCES: Final = {
    "espresso": "Quantum ESPRESSO: P. Giannozzi et al., J. Phys.: Condens. Matter 29, 465901 (2017), "
    "doi:10.1088/1361-648X/aa8f79, and the pseudopotentials",
    "gpaw": "GPAW: J. J. Mortensen et al., J. Chem. Phys. 160, 092503 (2024), doi:10.1063/5.0182685",
    "vasp": "VASP: G. Kresse and J. Furthmüller, Phys. Rev. B 54, 11169 (1996), doi:10.1103/PhysRevB.54.11169, "
    "and the PAW datasets: G. Kresse and D. Joubert, Phys. Rev. B 59, 1758 (1999)",
}
FOUNDATIONS: Final = {
    "chgnet": "CHGNet: B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023), doi:10.1038/s42256-023-00716-3",
    "sevennet": "SevenNet: Y. Park et al., J. Chem. Theory Comput. 20, 4857 (2024), doi:10.1021/acs.jctc.4c00190",
}


def papers_of(campaign: Campaign, method: Method) -> list[str]:
    """What to cite for a campaign, a line each."""
    model = campaign.foundation.model.partition("-")[0] if campaign.foundation else ""
    found = [REFERENCES.get(campaign.reference.kind), FOUNDATIONS.get(model)]
    return [
        "the method: S. S. Hessmann et al., npj Comput. Mater. (2025), arXiv:2408.04073",
        f"the program: csp_al {method.version}",
        "ASE: A. H. Larsen et al., J. Phys.: Condens. Matter 29, 273002 (2017), doi:10.1088/1361-648X/aa680e",
        *filter(None, found),
    ]


def as_yaml(settings: Any) -> str:
    """Settings as a campaign file has them."""
    from ruamel.yaml import YAML

    text = StringIO()
    YAML(typ="safe", pure=True).dump(settings, text)
    return text.getvalue().rstrip()
