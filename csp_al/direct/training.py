"""Training of a direct relaxer, one member after the other, resumable.

    relaxer = train(pairs, DEFAULTS["deeprelax"], Path("model"), torch.device("cpu"))

A tenth of the pairs is held out from all members: the weights kept are those that were best on it, and what is said of
the relaxer rests on it. At the ends of epochs all that training needs is written beside the model, as plain tensors, so
that one that was cut off goes on from there and ends as if it had not been.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import cos, pi
from pathlib import Path
from time import monotonic
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from csp_al.direct.metrics import displacements, spearman
from csp_al.direct.network import Cell, DirectNetwork, Said
from csp_al.direct.pairs import Pairs, PairsError, cartesian, fractional
from csp_al.direct.relaxer import ABOUT, Relaxer, as_bytes, learnt_springs, load_relaxer, save_relaxer
from csp_al.direct.section import DirectSection
from csp_al.direct.vegard import fit_volumes, pays
from csp_al.files import DamagedError, digest, make_directory, read_sealed, write_atomically, write_sealed
from csp_al.potential.ensemble import State, read_tensors
from csp_al.potential.graphs import Edges, build_graph, find_edges
from csp_al.potential.networks.member import Graph
from csp_al.structures import Ints, Structures

LEAST: Final = 20
"""Pairs, with which one can hardly tell whether anything was learnt."""
HELD_OUT: Final = 0.1
GATE: Final = 0.95
"""Share of the pairs held out whose uncertainty is trusted."""
WARM_UP: Final = 0.1
"""Share of the steps in which the learning rate rises; then it falls, as a cosine does."""
WEIGHT_DECAY: Final = 0.01
GRADIENT_LIMIT: Final = 10.0
CELL_WEIGHT: Final = 1.0
"""Of the mean error of the nine numbers of a cell (Å) beside the log likelihood of distances, as published."""
EVERY: Final = 20.0
"""Seconds between two files from which training could go on."""
TRAINING, CHECKPOINT = "training.json", "training.pt"

Report = Callable[[int, int, int, float], None]
"""Is told the member, the epochs done and all of them, and the loss on the pairs held out."""


@dataclass(frozen=True)
class _Targets:
    """What is learnt: from the structures, with these edges, to a symmetric stretch (n, 3, 3) and moves (N, 3) Å."""

    start: Structures
    edges: Edges
    free: Tensor
    stretch: Tensor
    moves: Tensor
    device: torch.device

    def batch(self, rows: Ints) -> tuple[Graph, Tensor, Tensor, Tensor]:
        """The graph of some structures, their free atoms, stretches and moves."""
        atoms = self.start.atoms_of(rows)
        graph = build_graph(self.start, self.edges, rows, self.device)
        return graph, self.free[atoms], self.stretch[rows], self.moves[atoms]


@dataclass(frozen=True)
class _Lesson:
    """What each member is trained on, and the rows that it learns from and is judged by."""

    section: DirectSection
    targets: _Targets
    learnt: Ints
    held_out: Ints

    def batches(self, rows: Ints, times: int) -> list[Ints]:
        """Rows in batches of about so many times the atoms of one step."""
        atoms = int(self.targets.start.counts[rows].sum())
        return np.array_split(rows, min(len(rows), -(-atoms // (times * self.section.batch_atoms))))


def train(
    pairs: Pairs, section: DirectSection, folder: Path, device: torch.device, report: Report = lambda *_: None
) -> Relaxer:
    """Train, or go on with a training that was cut off, and leave the model in the folder; one that is there is read.

    The same pairs, section and number of threads give the same model. Raises ValueError for pairs that are too few or
    not for this kind, and where the folder has something else.
    """
    _refuse(pairs, section)
    volumes = fit_volumes(pairs.end) if pairs.moves_cell and pays(pairs) else None
    cell: Cell = "fixed" if not pairs.moves_cell else "free" if volumes is None else "shape"
    start = pairs.start if volumes is None else volumes.scaled(pairs.start)
    targets = _targets(start, pairs, section.cutoff, device)
    _begin(folder, section, pairs)
    if (folder / ABOUT).exists():
        return load_relaxer(folder, device)
    order = np.random.default_rng([section.seed, 0]).permutation(len(pairs))
    held_out, learnt = np.split(order, [max(2, round(HELD_OUT * len(pairs)))])
    members: list[DirectNetwork] = []
    checkpoint = _read_checkpoint(folder, device)
    for index in range(section.members):
        member = _member(section, cell, index).to(device)
        _train_member(member, index, _Lesson(section, targets, learnt, held_out), folder, checkpoint, report)
        members.append(member.eval().requires_grad_(requires_grad=False))
    elements = tuple(np.unique(pairs.start.numbers).tolist())
    relaxer = Relaxer(section, cell, elements, volumes, tuple(members), device)
    relaxer = _judged(relaxer, pairs, held_out)
    save_relaxer(folder, relaxer)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return relaxer


def _refuse(pairs: Pairs, section: DirectSection) -> None:
    if len(pairs) < LEAST:
        raise PairsError(f"{len(pairs)} pairs; at least {LEAST} are needed, and some hundreds to learn much")
    if section.kind == "dogss" and pairs.moves_cell:
        raise PairsError("dogss keeps the cell, and these pairs have a relaxed_cell; take --kind deeprelax")


def _targets(start: Structures, pairs: Pairs, cutoff: float, device: torch.device) -> _Targets:
    stretch = np.linalg.solve(start.cells, pairs.end.cells)
    moves = cartesian(fractional(pairs.end) - fractional(start), pairs.end.cells, start.system)
    free = torch.from_numpy(pairs.free).to(device)
    stretch_, moves_ = (torch.from_numpy(each).float().to(device) for each in (stretch, moves))
    return _Targets(start, find_edges(start, cutoff), free, stretch_, moves_, device)


def _member(section: DirectSection, cell: Cell, index: int) -> DirectNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.default_rng([section.seed, 1, index]).integers(2**63)))
        return DirectNetwork(section, cell)


def _train_member(
    member: DirectNetwork, index: int, lesson: _Lesson, folder: Path, checkpoint: State, report: Report
) -> None:
    """Leave a member with the weights that were best on the pairs held out."""
    section = lesson.section
    per_epoch = len(lesson.batches(lesson.learnt, 1))
    epochs = -(-section.steps // per_epoch)
    optimiser = torch.optim.AdamW(member.parameters(), lr=section.learning_rate, weight_decay=WEIGHT_DECAY)
    best, lowest, begin = _copied(member), torch.inf, 0
    if f"{index}.progress" in checkpoint:
        try:
            begin, lowest, best = _recall(member, optimiser, index, epochs, checkpoint)
        except (RuntimeError, LookupError, ValueError) as error:
            raise ValueError(f"{folder / CHECKPOINT}: not of this training; remove it to begin anew") from error
    written = monotonic()
    for epoch in range(begin, epochs):
        shuffled = np.random.default_rng([section.seed, 2, index, epoch]).permutation(lesson.learnt)
        for step, rows in enumerate(lesson.batches(shuffled, 1)):
            share = (epoch * per_epoch + step) / (epochs * per_epoch)
            for group in optimiser.param_groups:
                group["lr"] = section.learning_rate * _rate(share)
            optimiser.zero_grad()
            _losses(member, lesson, rows).mean().backward()
            torch.nn.utils.clip_grad_norm_(member.parameters(), GRADIENT_LIMIT)
            optimiser.step()
        loss = _validation(member, lesson)
        if loss < lowest:
            lowest, best = loss, _copied(member)
        report(index, epoch + 1, epochs, loss)
        if monotonic() - written > EVERY or epoch + 1 == epochs:
            for name in [name for name in checkpoint if name.startswith(f"{index}.")]:
                del checkpoint[name]
            checkpoint |= _kept(index, epoch + 1, lowest, best, None if epoch + 1 == epochs else (member, optimiser))
            write_atomically(folder / CHECKPOINT, as_bytes(checkpoint))
            written = monotonic()
    member.load_state_dict(best)


def _rate(share: float) -> float:
    """The learning rate after a share of the steps, as a part of the largest."""
    if share < WARM_UP:
        return 0.1 + 0.9 * share / WARM_UP
    return 0.005 + 0.995 * (1 + cos(pi * (share - WARM_UP) / (1 - WARM_UP))) / 2


def _copied(member: DirectNetwork) -> State:
    return {name: tensor.clone() for name, tensor in member.state_dict().items()}


def _losses(member: DirectNetwork, lesson: _Lesson, rows: Ints) -> Tensor:
    """The loss of each structure (n,)."""
    graph, free, stretch, moves = lesson.targets.batch(rows)
    said = member(graph, free)
    if lesson.section.kind == "dogss":
        return _distance_left(learnt_springs(graph, said, free) - moves, graph, free)
    return _unlikelihood(graph, said, stretch, moves) + _cell_error(lesson.targets.start, rows, said, stretch)


def _distance_left(off: Tensor, graph: Graph, free: Tensor) -> Tensor:
    """Mean distance (n,) Å of free atoms from where they should be."""
    lengths = (off.square().sum(dim=1) + 1e-10).sqrt() * free
    sums = lengths.new_zeros(len(graph.counts))
    counts = sums.index_add(0, graph.system, free.to(lengths))
    return sums.index_add(0, graph.system, lengths) / counts


def _unlikelihood(graph: Graph, said: Said, stretch: Tensor, moves: Tensor) -> Tensor:
    """Negative log likelihood (n,) of the relaxed distances, with Laplace's distribution, as a mean over the edges."""
    owner = graph.system[graph.source]
    vectors = torch.einsum("ek,ekl->el", graph.vectors, stretch[owner]) + moves[graph.target] - moves[graph.source]
    error = (said.distance - vectors.norm(dim=1)).abs()
    each = error * (-said.log_width).exp() + said.log_width + np.log(2)
    sums = each.new_zeros(len(graph.counts)).index_add(0, owner, each)
    return sums / graph.pointer.diff().clamp_min(1)


def _cell_error(start: Structures, rows: Ints, said: Said, stretch: Tensor) -> Tensor:
    cells = torch.from_numpy(start.cells[rows]).to(stretch)
    return CELL_WEIGHT * (cells @ (torch.matrix_exp(said.strain) - stretch)).abs().mean(dim=(1, 2))


def _validation(member: DirectNetwork, lesson: _Lesson) -> float:
    with torch.no_grad():
        losses = [_losses(member, lesson, rows) for rows in lesson.batches(lesson.held_out, 2)]
    return float(torch.cat(losses).mean())


def _judged(relaxer: Relaxer, pairs: Pairs, held_out: Ints) -> Relaxer:
    """The relaxer with its gate and what is to be known of it, from pairs that it was not trained on."""
    kept = pairs.take(held_out)
    predicted = relaxer.predict(kept.start, kept.free)
    error, nothing = displacements(kept, predicted.structures), displacements(kept, kept.start)
    learnt: dict[str, Any] = {
        "pairs": len(pairs),
        "held_out": len(kept),
        "displacement": round(float(error.mean()), 5),
        "displacement_of_doing_nothing": round(float(nothing.mean()), 5),
        "spearman": round(spearman(predicted.uncertainty, error), 3),
    }
    return replace(relaxer, gate=float(np.quantile(predicted.uncertainty, GATE)), learnt=learnt)


def _begin(folder: Path, section: DirectSection, pairs: Pairs) -> None:
    """Make the folder; see that a training that began there was of the same pairs with the same settings."""
    arrays = (pairs.start.ptr, pairs.start.numbers, pairs.start.positions, pairs.start.cells, pairs.end.positions)
    about = {
        "section": section.written(),
        "pairs": digest([array.tolist() for array in (*arrays, pairs.end.cells, pairs.free)]),
    }
    make_directory(folder)
    path = folder / TRAINING
    try:
        there = read_sealed(path, "training")
    except FileNotFoundError:
        if any(folder.iterdir()):
            raise ValueError(f"{folder}: other files are there; choose another --out") from None
        write_sealed(path, "training", about, indent=1)
        return
    except DamagedError as error:
        raise ValueError(f"{path}: {error.what}; choose another --out") from error
    if there != about:
        raise ValueError(f"{folder}: a model of other pairs or settings is there; choose another --out, or remove it")


def _read_checkpoint(folder: Path, device: torch.device) -> State:
    try:
        return read_tensors(folder / CHECKPOINT, device)
    except FileNotFoundError:
        return {}
    except DamagedError as error:
        raise ValueError(f"{error.path}: {error.what}; remove it, and training begins anew") from error


def _kept(index: int, epoch: int, lowest: float, best: State, going_on: tuple[Any, Any] | None) -> State:
    """What training needs to go on with a member; of one that is done its weights alone."""
    state = {f"{index}.progress": torch.tensor([epoch, lowest], dtype=torch.float64)}
    state |= {f"{index}.best.{name}": tensor for name, tensor in best.items()}
    if going_on is None:
        return state
    member, optimiser = going_on
    state |= {f"{index}.now.{name}": tensor for name, tensor in member.state_dict().items()}
    for number, moments in optimiser.state_dict()["state"].items():
        state |= {f"{index}.optimiser.{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    return state


def _part(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _recall(
    member: DirectNetwork, optimiser: torch.optim.Optimizer, index: int, epochs: int, checkpoint: State
) -> tuple[int, float, State]:
    """Set a member and its optimiser as they were; the epochs done, the lowest loss, and the weights that had it."""
    epoch, lowest = checkpoint[f"{index}.progress"].tolist()
    if epoch < epochs:
        member.load_state_dict(_part(checkpoint, f"{index}.now."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(checkpoint, f"{index}.optimiser.").items():
            number, what = name.split(".")
            state.setdefault(int(number), {})[what] = tensor
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return int(epoch), lowest, _part(checkpoint, f"{index}.best.")
