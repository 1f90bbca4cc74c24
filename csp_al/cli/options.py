"""Options with values that they cannot have, in our words instead of those of typer's library."""

from __future__ import annotations

from typing import Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup


class Verbs(TyperGroup):
    """The verbs; what is wrong with an option is told as what is wrong with a campaign file."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb that was named."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if isinstance(error.__cause__, ValidationError):
                from csp_al.campaign.messages import expected
                from csp_al.printing import printable

                error.message = printable(expected(error.__cause__.errors(include_url=False)[0]))
            raise
