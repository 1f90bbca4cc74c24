"""Training of all members together on the labels of a campaign.

Members differ by their initial weights and by the bootstrap of the labels: each candidate is, for each member,
either held out for validation or counted once or several times in training. The draw belongs to the candidate and is
the same in every cycle, so that no geometry of a candidate that a member is validated on was ever trained on by that
member, in this cycle or in the one that its weights come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from csp_al.formats import SPECIES
from csp_al.interfaces import Trained
from csp_al.potential.devices import threads_for
from csp_al.potential.energy_zero import fit_zero, without_zero
from csp_al.potential.ensemble import Ensemble, State, bytes_per_edge, evaluate, repulsion_of
from csp_al.potential.graphs import Edges, build_graph, find_edges
from csp_al.potential.kind import NetworkPotential
from csp_al.potential.networks.member import HEADS, OUTPUT_LAYER, Graph
from csp_al.potential.turning import rotations, turned
from csp_al.structures import Floats, Ints, Labels, Structures

Mask = NDArray[np.bool_]

BLOCK = 5
"""Candidates of which each member holds one out for validation."""

EXTREME_SIGMA = 3.0
"""Labels whose largest force or stress exceeds mean + 3 sigma of all are left out (Hessmann et al. 2025),
unless that would leave a member without labels on one side."""

STRONG = 3.0
"""Labels whose forces and virial are so many times the median's count half."""

AT_REST = 0.1
"""eV/Å, what labels are told apart by at least: below it, noise alone would."""

GRADIENT_LIMIT = 10.0
LEAST_LOSS = 1e-8
"""Of one structure, for its logarithm."""

FEWEST_STEPS = 100
"""On top of those for each label: an optimiser needs some, however little there is to learn."""
WEIGHT_DECAY = 0.01
WARM_UP = 0.1
"""Share of the steps in which the learning rate rises; it falls by a cosine in the rest (L. N. Smith, 2018)."""

WARM_RATE = 0.3
"""Highest learning rate, as a share of the first cycle's, for weights that were trained before."""

UNSET = 1.0
"""Energy scale of an ensemble that was never trained."""


def train(
    ensemble: Ensemble, labels: Labels, seed: list[int], report: Callable[[int, int], None] = lambda *_: None
) -> Trained:
    """Train on energy per atom, forces and stress, every member until its validation loss no longer improves.

    The weights that each member ends with are those of its best epoch. ``labels`` must all be usable, and in the
    order in which they were obtained (see `bootstrap`). Raises ValueError for labels of fewer than two candidates.
    """
    candidates = len(np.unique(labels.structures.ids))
    if candidates < 2:
        msg = f"labels of {candidates} candidates; an ensemble needs at least 2, to train on and to validate with"
        raise ValueError(msg)
    section = ensemble.section
    weights = bootstrap(labels.structures.ids, section.members, seed[0])
    mask = not_extreme(labels)
    if not _both_sides(weights[:, mask]):
        mask[:] = True
    kept = labels.take(mask)
    weights = weights[:, mask] * importance(kept)
    state = {name: tensor.clone() for name, tensor in ensemble.state.items()}
    fresh = bool((state["energy_scale"] == UNSET).all())
    if fresh:
        _set_scale(state, kept)
    relative = replace(kept, energy=without_zero(kept.energy, kept.structures, state))
    targets = _Targets.of(relative, weights, section, ensemble.device)
    rate = section.learning_rate * (1.0 if fresh else WARM_RATE)
    return Trained(
        *_optimise(ensemble, state, targets, rate, np.random.default_rng(seed), report), len(labels) - len(kept)
    )


def not_extreme(labels: Labels) -> Mask:
    """Mask (n,) of the labels whose largest force and stress are not extreme among all."""
    forces = np.linalg.norm(labels.forces, axis=1)
    largest = labels.structures.largest(forces)
    stress = np.abs(labels.stress).max(axis=(1, 2))
    mask = np.ones(len(labels), dtype=bool)
    for value in (largest, stress):
        mask &= value <= value.mean() + EXTREME_SIGMA * value.std()
    return mask


def importance(labels: Labels) -> Floats:
    """Weight of each label in the loss, (n,): 1 / (1 + s / (9 median of s)), s its `Labels.strength`.

    Errors grow with forces, and those of random cells are a hundred times those of the crystals that a search has to
    rank: squared, the errors of the first five labels outweighed all others to the end of a campaign.
    """
    return 1 / (1 + labels.strength / (STRONG**2 * max(np.median(labels.strength), AT_REST**2)))


def steps_for(labels: int, section: NetworkPotential) -> int:
    """Training steps for so many labels: the more there is to learn, the more of them."""
    return min(section.steps, FEWEST_STEPS + round(section.steps_per_label * labels))


def bootstrap(candidates: Ints, members: int, seed: int) -> Floats:
    """How often each label counts for each member, (members, n): 0 holds it out for validation.

    All labels of a candidate share one draw. Of every five candidates, in the order of their first labels, a member
    holds one out; the others are counted by a Poisson law without its zero, the online form of the bootstrap. The
    first is held out from among the first two, so that two candidates are enough for both sides. Labels appended
    later leave the draws of earlier ones as they are: what was trained on is never held out afterwards.
    """
    _, first, which = np.unique(candidates, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[which.ravel()]
    blocks = -(-len(first) // BLOCK)
    counts = [[_block(seed, member, block) for block in range(blocks)] for member in range(members)]
    return np.array(counts, dtype=float).reshape(members, blocks * BLOCK)[:, place]


def _block(seed: int, member: int, block: int) -> list[int]:
    """How often the five candidates of a block count for a member."""
    rng = np.random.default_rng([seed, 1, member, block])
    counts = [_poisson_above_zero(rng) for _ in range(BLOCK)]
    counts[rng.integers(BLOCK if block else 2)] = 0
    return counts


def _both_sides(weights: Floats) -> bool:
    """Whether every member has labels to train on and labels to validate with."""
    return bool((weights > 0).any(axis=1).all() and (weights == 0).any(axis=1).all())


def _poisson_above_zero(rng: np.random.Generator) -> int:
    while not (count := int(rng.poisson(1.0))):
        pass
    return count


@dataclass(frozen=True)
class _Targets:
    """The labels on the device: graphs are built once, batches are cut from them.

    ``energy``, ``forces`` and ``stress`` are what the networks have to learn: without the zero and the repulsion.
    """

    structures: Structures
    edges: Edges
    energy: Tensor
    forces: Tensor
    stress: Tensor
    weights: Tensor
    section: NetworkPotential
    device: torch.device

    @classmethod
    def of(cls, labels: Labels, weights: Floats, section: NetworkPotential, device: torch.device) -> _Targets:
        edges = find_edges(labels.structures, section.cutoff)
        graph = build_graph(labels.structures, edges, np.arange(len(labels)), device)
        arrays = (labels.energy, labels.forces, labels.stress, weights)
        energy, forces, stress, counted = (torch.from_numpy(array).float().to(device) for array in arrays)
        of_pairs, pushes, pressure = repulsion_of(graph, section.cutoff)
        learnt = (energy - of_pairs, forces - pushes, stress - pressure)
        return cls(labels.structures, edges, *learnt, counted, section, device)

    @property
    def size(self) -> int:
        """Bytes of intermediate results of a pass over all of them."""
        return len(self.edges.source) * bytes_per_edge(self.section, self.device)

    def losses(self, ensemble: Ensemble, state: State, rows: Ints, turns: Floats | None = None) -> Tensor:
        """Loss of each structure in these rows for each member, (members, len(rows)); turned by (len(rows), 3, 3)."""
        graph = build_graph(self.structures, self.edges, rows, self.device)
        known, pressed = self.forces[self.structures.atoms_of(rows)], self.stress[rows]
        if turns is not None:
            graph, known, pressed = turned(graph, known, pressed, torch.from_numpy(turns).to(graph.vectors))
        energy, forces, stress, _ = evaluate(ensemble.skeleton, state, graph, differentiable=True)
        return self._energy(energy, graph, rows) + self._forces(forces - known, graph) + self._stress(stress - pressed)

    def _energy(self, energy: Tensor, graph: Graph, rows: Ints) -> Tensor:
        return self.section.energy_weight * ((energy - self.energy[rows]) / graph.counts) ** 2

    def _forces(self, wrong: Tensor, graph: Graph) -> Tensor:
        error = (wrong**2).mean(dim=-1)
        total = torch.zeros(len(error), len(graph.counts), device=error.device).index_add(1, graph.system, error)
        return self.section.force_weight * total / graph.counts

    def _stress(self, wrong: Tensor) -> Tensor:
        return self.section.stress_weight * (wrong**2).mean(dim=(-1, -2))


def _set_scale(state: State, labels: Labels) -> None:
    """Fit the zero of energy, scale by the root mean square force times 1 Å, and begin at the zero.

    With output layers of zeros the first predictions are the zero and the repulsion alone; with a random one their
    errors are many times the spread of the labels, and the first epochs go into unlearning them.
    """
    shift, deviations = fit_zero(labels, importance(labels), SPECIES)
    state["energy_shift"].fill_(shift)
    state["species_shift"][:] = torch.from_numpy(deviations)
    for name, weights in state.items():
        if name == OUTPUT_LAYER or name.startswith(HEADS):
            weights.zero_()
    state["energy_scale"].fill_(max(1e-3, float(np.sqrt((labels.forces**2).mean()))))


def _optimise(
    ensemble: Ensemble,
    state: State,
    targets: _Targets,
    rate: float,
    rng: np.random.Generator,
    report: Callable[[int, int], None],
) -> tuple[Ensemble, pd.DataFrame]:
    section = ensemble.section
    parameters = [state[name].requires_grad_() for name in ensemble.learned]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=WEIGHT_DECAY, foreach=True)
    per_epoch = -(-len(targets.energy) // section.batch_size)
    epochs = -(-steps_for(len(targets.energy), section) // per_epoch)
    steps = epochs * per_epoch + 1
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=steps, pct_start=max(WARM_UP, 2 / steps), cycle_momentum=False,
        div_factor=10, final_div_factor=10,
    )  # fmt: skip
    best = _detached(state)
    lowest = torch.full((section.members,), torch.inf)
    since = torch.zeros(section.members)
    curve = []
    for epoch in range(1, epochs + 1):
        with threads_for(targets.size // per_epoch):
            training, validation = _epoch(ensemble, state, targets, optimiser, schedule, rng)
        better = validation < lowest
        if better.any():
            for name, tensor in state.items():
                best[name][better] = tensor.detach()[better]
        lowest = torch.where(better, validation, lowest)
        since = torch.where(better, 0, since + per_epoch)
        curve.append((training, validation))
        report(epoch, epochs)
        if bool((since >= section.patience).all()):
            break
    return replace(ensemble, state=best), _curve(curve)


def _epoch(
    ensemble: Ensemble,
    state: State,
    targets: _Targets,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """One pass over all labels; training and validation loss of each member (members,), as seen on the way.

    Every member sees every label, with a weight of 0 where it is held out, so that validation costs nothing. Its loss
    is the geometric mean: an arithmetic mean over the few labels of a search is one outlier's loss, which picked
    epochs 5 to 12 of 80 where all other held-out labels, and the training, went on improving.
    """
    order = rng.permutation(len(targets.energy))
    parts = []
    for start in range(0, len(order), ensemble.section.batch_size):
        rows = order[start : start + ensemble.section.batch_size]
        turns = None if ensemble.section.equivariant else rotations(len(rows), rng)
        losses = targets.losses(ensemble, state, rows, turns)
        optimiser.zero_grad()
        # over the structures, not the batch's own weights: a batch in which a member has few labels moves it little
        loss = (targets.weights[:, rows] * losses).sum() / len(rows)
        loss.backward(inputs=[state[name] for name in ensemble.learned])  # those alone, not the vectors
        _clip(optimiser)
        optimiser.step()
        schedule.step()
        parts.append(losses.detach())
    losses, weights = torch.cat(parts, dim=1), targets.weights[:, order]
    training = (weights * losses).sum(dim=1) / weights.sum(dim=1)
    held_out = weights == 0
    validation = ((losses.clamp_min(LEAST_LOSS).log() * held_out).sum(dim=1) / held_out.sum(dim=1)).exp()
    return training.cpu(), validation.cpu()


def _clip(optimiser: torch.optim.Optimizer) -> None:
    """Limit the norm of each member's gradient, so that one member's accident does not slow down the others."""
    gradients = [tensor.grad for group in optimiser.param_groups for tensor in group["params"]]
    squared = sum(gradient.flatten(1).square().sum(dim=1) for gradient in gradients)
    factor = (GRADIENT_LIMIT / torch.as_tensor(squared).sqrt().clamp_min(1e-12)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factor.reshape(-1, *[1] * (gradient.ndim - 1)))


def _detached(state: State) -> State:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _curve(losses: list[tuple[Tensor, Tensor]]) -> pd.DataFrame:
    """A row for each epoch and member, from training and validation losses (members,) of each epoch."""
    training, validation = (torch.stack(each).flatten().tolist() for each in zip(*losses, strict=True))
    epoch, member = np.divmod(np.arange(len(training)), len(losses[0][0]))
    return pd.DataFrame({"epoch": epoch + 1, "member": member, "training": training, "validation": validation})
