"""What went wrong, in words and as an exit status, instead of a traceback."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from csp_al.printing import say

Verb = TypeVar("Verb", bound=Callable[..., Any])


def in_words(verb: Verb) -> Verb:
    """Print an expected failure of a verb on standard error and exit with its status; anything else is a bug."""

    @functools.wraps(verb)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return verb(*args, **kwargs)
        except (typer.Exit, BrokenPipeError):  # the latter is for typer: who reads, has read enough
            raise
        except KeyboardInterrupt:  # of a verb that has nothing to put in order
            raise typer.Exit(130) from None
        except Exception as error:
            code = _exit_status(error)
            if code is None:
                raise
            say(_words(error), err=True)
            raise typer.Exit(code) from error

    return wrapped  # type: ignore[return-value]


def _words(error: Exception) -> str:
    """What went wrong; of the operating system's errors the file and the words, without their number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _exit_status(error: Exception) -> int | None:
    from csp_al.campaign import CampaignError
    from csp_al.files import DamagedError, OtherVersionError
    from csp_al.foundation.client import FoundationError
    from csp_al.interfaces import UnplaceableError
    from csp_al.store.changes import ChangedError
    from csp_al.store.links import UntrustedError
    from csp_al.store.lock import InUseError
    from csp_al.store.run_directory import NoRunError

    if isinstance(error, InUseError):
        return 3
    bad_input = (
        CampaignError, ChangedError, NoRunError, DamagedError, OtherVersionError, UntrustedError, UnplaceableError,
        FoundationError, ValueError, OSError,
    )  # fmt: skip
    return 2 if isinstance(error, bad_input) else None
