"""Why something gave no result, or stopped: relaxations by the potential, candidates, calculations by the reference.

Programs go by constants, classes and kinds, so that the words, which are for people, may change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from csp_al.printing import printable_lines
from csp_al.structures import Strings

CONVERGED: Final = "converged"
UNCERTAIN: Final = "uncertain"
STALLED: Final = "energy no longer falls"
OUT_OF_STEPS: Final = "out of steps"
TOO_CLOSE: Final = "atoms too close"
VOLUME: Final = "volume out of range"
NOT_FINITE: Final = "not finite"
UNTRUSTED: Final = (TOO_CLOSE, VOLUME, NOT_FINITE)
"""Reasons that say that the potential led the candidate out of the range of sensible crystals."""

STOP_REASONS: Final = (CONVERGED, UNCERTAIN, STALLED, OUT_OF_STEPS, TOO_CLOSE, VOLUME, NOT_FINITE)


def trusted(reason: Strings) -> NDArray[np.bool_]:
    """Whether a relaxation that stopped for this reason ended within the range of sensible crystals, (n,)."""
    return ~np.isin(reason, UNTRUSTED)


MOST_WORDS: Final = 2000


class UnplaceableError(Exception):
    """No candidate could be made; the message names the constraint."""


class Failure(StrEnum):
    """What kind of thing went wrong with a calculation; remedies go by it, so that words may change."""

    SCF_NOT_CONVERGED = "scf_not_converged"
    DIAGONALISATION = "diagonalisation"
    WRONG_CHARGE = "wrong_charge"
    FERMI_ENERGY = "fermi_energy"
    SYMMETRY = "symmetry"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    TIME_LIMIT = "time_limit"
    KILLED = "killed"
    """By SIGKILL, which somebody sends, or the kernel where memory runs out."""
    CRASHED = "crashed"
    """By another signal, or gone without a word."""
    MPI = "mpi"
    SCRATCH = "scratch"
    """Files of its own that a program cannot read back."""
    NO_OUTPUT = "no_output"
    INCOMPLETE_OUTPUT = "incomplete_output"
    UNREADABLE_OUTPUT = "unreadable_output"
    CANNOT_RUN = "cannot_run"
    TOO_MANY_CORES = "too_many_cores"
    INPUT_REFUSED = "input_refused"
    NOT_FINITE = "not_finite"
    TOO_CLOSE = "too_close"
    TOO_STRONG_FORCES = "too_strong_forces"
    TOO_STRONG_STRESS = "too_strong_stress"
    CUT_OFF = "cut_off"
    """Its worker was stopped."""
    AWAY = "away"
    """A program, file, licence or node that it needs was not there."""
    OTHER = "other"


OF_THE_MACHINE: Final = frozenset(
    {
        Failure.AWAY, Failure.CANNOT_RUN, Failure.CUT_OFF, Failure.DISK_FULL, Failure.KILLED, Failure.MPI,
        Failure.NO_OUTPUT, Failure.OUT_OF_MEMORY, Failure.SCRATCH, Failure.TOO_MANY_CORES,
    }
)  # fmt: skip
"""Failures that say nothing of the crystal: they are tried again once the machine is mended."""

TOO_TIGHT: Final = frozenset({Failure.TOO_CLOSE, Failure.TOO_STRONG_FORCES, Failure.TOO_STRONG_STRESS})
"""Failures of crystals whose atoms are too near to one another, not of the reference."""

AWAY: Final = re.compile(
    r"licen[cs]e|environment variable|ASE_\w+_COMMAND|No configuration of|command not found|shared librar|"
    r"No such file or directory|Permission denied|Connection (refused|reset|timed out)|Network is unreachable|"
    r"No route to host|Name or service not known|Temporary failure in name resolution|Stale file handle|"
    r"Transport endpoint|Input/output error|(code|status)\W{0,2}12[67]\b",
    re.IGNORECASE,
)
"""What calculators say where something that they need is not there; 126 and 127 are a shell's words for it."""


def kind_of(error: BaseException) -> Failure:
    """What kind of failure an exception of somebody else's calculator is, as far as it can be told."""
    if isinstance(error, MemoryError):
        return Failure.OUT_OF_MEMORY
    return Failure.AWAY if isinstance(error, OSError) or AWAY.search(str(error)) else Failure.OTHER


@dataclass(frozen=True)
class Reason:
    """Why a calculation gave nothing that is to be believed: its kind for programs, its words for people.

    Words that come from a program may be long, or be no text at all: the middle is left out beyond `MOST_WORDS`
    letters, and what cannot be printed is replaced.
    """

    kind: Failure
    words: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", _fit_to_print(self.words))

    def __str__(self) -> str:
        return self.words


def without_numbers(words: str) -> str:
    """The words with … for each number: the same for the same failure of two cells."""
    return re.sub(r"[-+]?\d[\d.]*(?:e[-+]?\d+)?", "…", words)


def _fit_to_print(words: str) -> str:
    if (left_out := len(words) - MOST_WORDS) > 0:
        half = MOST_WORDS // 2
        words = f"{words[:half]} [... {left_out} letters left out ...] {words[-half:]}"
    return printable_lines(words)


@dataclass(frozen=True)
class Cure:
    """A remedy for failures of these kinds, whatever their words: what is done, and the keys of the section it sets."""

    kinds: frozenset[Failure]
    say: str
    set: Mapping[str, Any] = field(default_factory=dict)


class ReferenceFailedError(Exception):
    """The reference method gave no result; the message is the reason, in words."""

    def __init__(self, words: str, kind: Failure = Failure.OTHER) -> None:
        self.reason = Reason(kind, words)
        super().__init__(words)
