"""A foundation potential, asked in a process of its own, which outlives what is asked but not who asks.

    chgnet = Client("chgnet", {})
    chgnet.about().elements
    energy, forces, stress = chgnet.predict(structures)
    chgnet.close()

Universal potentials do not share an environment with each other, load slowly, and grow; so one is loaded once, in the
environment that has it, and what happens there does not happen here.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from csp_al.foundation import worker
from csp_al.foundation.process import DeathError, NoPythonError, Process, start
from csp_al.structures import Floats, Structures

PACKAGES: Final = {"chgnet": ("chgnet", "chgnet>=0.4.2"), "sevenn": ("sevennet", "sevenn>=0.13")}
"""What a model that is known by name needs: the extra of csp_al that has it, and what pip calls it elsewhere."""

DEATHS: Final = 2
"""Processes that may die over one question, or while they load, before that is given up."""


@dataclass(frozen=True)
class About:
    """What a model is: versions of its packages, checksums (sha256) of its files of weights by their names.

    Those of an import path have the names that the parameters give them: two folders may have files of one name.
    Elements and functional are None where they are not known.
    """

    versions: dict[str, str]
    weights: dict[str, str]
    elements: list[str] | None
    functional: str | None


class FoundationError(Exception):
    """A model cannot be asked; the message is one line, with what to do."""


class Client:
    """A model, asked in a process of its own, which is started when it is first needed.

    ``command`` is the Python to run. The module of an import path is taken from the first of ``folders`` if that has
    it, then from the environment, then from the other folders; what it imports, from the environment, then from the
    folders. Models that are known by name have nothing from there. Names of files and folders in the parameters of an
    import path may be relative to ``base``, the folder of the campaign file, by default the first of the folders.
    """

    def __init__(
        self,
        model: str,
        parameters: Mapping[str, Any],
        *,
        command: Sequence[str] = (sys.executable,),
        folders: Sequence[Path] = (),
        base: Path | None = None,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        self.model = model
        self.failures: dict[int, str] = {}
        """Rows of the last batch that the model could not judge, and why."""
        self.reasons: Counter[str] = Counter()
        """How often each reason was given so far."""
        self._command = list(command)
        self._threads = threads
        bases = [str(folder.resolve()) for folder in (base, *folders) if folder]
        self._what = {
            "model": model,
            "parameters": dict(parameters),
            "folders": [str(folder.resolve()) for folder in folders],
            "base": bases[0] if bases else None,
            "device": device,
            "threads": threads,
        }
        self._worker: Process | None = None
        self._about: About | None = None
        self._asked = False
        """Whether the calculator was asked anything since it was made."""

    def about(self) -> About:
        """What it is. Raises FoundationError where it cannot be loaded."""
        if self._about is None:
            self._loaded()
        assert self._about is not None  # else it raised
        return self._about

    def predict(self, structures: Structures) -> tuple[Floats, Floats, Floats]:
        """Energy (n,) eV, forces (N, 3) eV/Å, stress (n, 3, 3) eV/Å^3, NaN where the model could not judge: `failures`.

        A crystal over which one process after another dies is such a one too. Raises FoundationError where there is
        nobody to ask, and OSError where there is no room for temporary files.
        """
        self.failures = {}
        if not len(structures):
            return np.zeros(0), np.zeros((0, 3)), np.zeros((0, 3, 3))
        self.failures, (energy, forces, stress) = self._judge(structures)
        self._asked = True
        self.reasons.update(self.failures.values())
        return energy, forces, stress

    def renew(self) -> None:
        """Have a calculator of an import path made anew: it may remember what it was asked, to the last digits.

        Models that are known by name remember nothing. Raises FoundationError where it cannot be made again.
        """
        if self._worker is None or self.model in worker.FILES or not self._asked:
            return
        with suppress(DeathError):
            self._load(self._worker)
        self._loaded()

    def close(self) -> None:
        """End the process; who asks again starts another."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _judge(self, structures: Structures) -> tuple[dict[int, str], list[Floats]]:
        """Failures, and what was predicted; a batch that kills its process is halved until one crystal is to blame."""
        question = worker.pack(
            None,
            numbers=structures.numbers,
            positions=structures.positions,
            cells=structures.cells,
            ptr=structures.ptr,
        )
        try:
            failed, arrays = self._again(lambda: self._exchange(self._loaded(), question))
        except DeathError as death:
            if len(structures) == 1:
                shapes = [(1,), structures.positions.shape, (1, 3, 3)]
                return {0: f"its process {death}"}, [np.full(shape, np.nan) for shape in shapes]
        else:
            return dict(failed), [arrays["energy"], arrays["forces"], arrays["stress"]]
        half = len(structures) // 2
        failures, first = self._judge(structures.take(range(half)))
        others, second = self._judge(structures.take(range(half, len(structures))))
        failures |= {half + row: reason for row, reason in others.items()}
        return failures, [np.concatenate(pair) for pair in zip(first, second, strict=True)]

    def _again(self, do: Callable[[], Any]) -> Any:
        """What is done by a process, or by another where it dies. Raises DeathError where all do."""
        for _ in range(DEATHS - 1):
            with suppress(DeathError):
                return do()
        return do()

    def _loaded(self) -> Process:
        """The process, which has loaded the model. Raises FoundationError where none can."""
        if self._worker is None:
            try:
                self._again(lambda: self._load(self._start()))
            except DeathError as death:
                msg = f"{self.model}: its process, {self._python}, {death}, {DEATHS} times in a row"
                raise FoundationError(msg) from death
        assert self._worker is not None  # else it raised
        return self._worker

    def _start(self) -> Process:
        """A new process. Raises FoundationError where there is no such program, and OSError for its folder."""
        try:
            self._worker = start([*self._command, worker.__file__], self._threads)
        except NoPythonError as error:
            raise FoundationError(f"{self.model}: {self._python} {error}") from error
        return self._worker

    def _load(self, running: Process) -> None:
        """Have the model loaded, or made anew. Raises FoundationError where it cannot be, and DeathError."""
        told, _ = self._exchange(running, worker.pack(self._what))
        if told.get("error"):
            self._kill()
            raise FoundationError(self._in_words(told["error"], told["missing"]))
        about = About(told["version"], told["weights"], told["elements"], told["functional"])
        if self._about not in (None, about):
            self._kill()
            raise FoundationError(f"{self.model} has changed while it was used: it was {self._about}, it is {about}")
        self._about, self._asked = about, False

    def _exchange(self, running: Process, question: bytes) -> tuple[Any, dict[str, Any]]:
        """Send and receive. Raises DeathError where the process has died, and FoundationError where it is another."""
        try:
            answer = running.ask(question)
        except BaseException as error:
            self._worker = None
            if isinstance(error, NoPythonError):
                raise FoundationError(f"{self.model}: {self._python} {error}") from error
            raise
        try:
            return worker.unpack(answer)
        except BaseException:  # whoever says such things is not asked again
            self._kill()
            raise

    @property
    def _python(self) -> str:
        return " ".join(self._command)

    def _in_words(self, error: str, missing: str | None) -> str:
        """Why it cannot be loaded, and what helps."""
        own = self._command == [sys.executable]
        where = "" if own else f" in the environment of {self._python}"
        if missing in PACKAGES and self.model in worker.FILES:
            extra, package = PACKAGES[missing]
            return f"{missing} is not installed{where}; pip install '{f'csp_al[{extra}]' if own else package}'"
        if missing:
            beside = "" if self.model in worker.FILES or missing == "ase" else ", or put it beside the campaign file"
            return f"{self.model}: no module {missing}{where}; install it{beside}"
        return f"{self.model}{where}: {error}"

    def _kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None
