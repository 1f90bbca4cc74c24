"""What a campaign file may say of a foundation: a universal potential that goes first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import Field

from csp_al.campaign.errors import Finding, shown
from csp_al.campaign.section import Section
from csp_al.spelling import did_you_mean

MODELS: Final = {"chgnet": ("model_name",), "sevennet-0": (), "sevennet-l3i5": ()}
"""Those that we know, and the keywords that each takes; their weights are in their packages."""


class Foundation(Section):
    """A universal potential, which relaxes the pool before the first label."""

    model: str = Field(
        description="chgnet, sevennet-0, sevennet-l3i5, or the import path of what returns an ASE calculator"
    )
    parameters: dict[str, Any] = Field(default_factory=dict, description="its keywords, e.g. {model_name: r2scan}")
    baseline: Annotated[bool, Field(strict=True)] = Field(
        True,
        description="the ensemble learns what the reference adds to it, unless labels held out are predicted better "
        "without; false: it chooses the first labels, and no more",
    )
    weights: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of its weights by file; {}: as found when a campaign begins"
    )

    @property
    def is_ours(self) -> bool:
        """Whether the model is one that we know; any other is code of its author."""
        return self.model in MODELS

    @property
    def package(self) -> str:
        """The package of Python that the model is of."""
        return "sevenn" if self.model.startswith("sevennet") and self.is_ours else self.model.partition(".")[0]

    def senseless(self) -> Iterator[Finding]:
        """What is wrong with the section by itself."""
        if not self.is_ours:
            names = self.model.split(".")
            if len(names) < 2 or not all(name.isidentifier() for name in names):
                hint = did_you_mean(self.model, MODELS) or f"; allowed: {', '.join(MODELS)}, or an import path"
                yield Finding(("model",), f"unknown word {shown(self.model)}{hint}")
            return
        for key in self.parameters:
            if key not in MODELS[self.model]:
                allowed = ", ".join(MODELS[self.model]) or "none"
                yield Finding(("parameters", key), f"no keyword of {self.model}; allowed: {allowed}", at_key=True)
