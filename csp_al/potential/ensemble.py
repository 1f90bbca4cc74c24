"""The ensemble: members of one architecture, asked together, with mean and spread.

The weights of all members are stacked and evaluated in one pass (`torch.func`), so that a graph is built and read
once for all of them. The derivative of every member's energy with respect to the edge vectors gives its forces and
its stress, unless its network gives them itself.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from csp_al.campaign.potentials import potential_kind
from csp_al.files import DamagedError, read_as_written, read_plain, upgraded, write_sealed
from csp_al.interfaces import Gives, Trained
from csp_al.potential.devices import threads_for
from csp_al.potential.energy_zero import zero_of
from csp_al.potential.graphs import Edges, NeighbourLists, batches_by_edges, build_graph
from csp_al.potential.kind import NetworkPotential
from csp_al.potential.networks.member import Graph, Member, network_of
from csp_al.potential.repulsion import repel
from csp_al.structures import Ints, Labels, Prediction, Structures, concatenate

MEMORY = 1_000_000_000
"""Bytes of intermediate results in one pass on a CPU; on a GPU it is half of what is free."""

NO_WEIGHTS = (
    pickle.UnpicklingError, RuntimeError, ValueError, LookupError, EOFError, TypeError, AttributeError,
)  # fmt: skip
"""What torch raises for a file that it did not write."""

IMPORTS: Final = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
"""Opcodes of a pickle that name something to call."""
TENSORS: Final = r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch \w+Storage"

WEIGHTS, ABOUT = "weights.pt", "potential.json"
State = dict[str, Tensor]


@dataclass(frozen=True)
class Ensemble:
    """Trained potentials; keeps `csp_al.interfaces.Ensemble`.

    ``state`` holds the weights and buffers of all members, stacked along the first axis; it is final once asked.
    """

    section: NetworkPotential
    skeleton: Member
    state: State
    device: torch.device

    @property
    def learned(self) -> list[str]:
        """Names of the part of the state that training changes."""
        return [name for name, _ in self.skeleton.named_parameters()]

    def predict(self, structures: Structures) -> Prediction:
        """Mean and spread over the members; see `Prediction` for shapes and units."""
        if not len(structures):
            return _empty(self.section)
        edges = self._neighbours.edges(structures)
        waiting = batches_by_edges(edges, edges_at_once(self.section, self.device))
        parts = []
        while waiting:
            rows, *waiting = waiting
            try:
                parts.append(self._predict(structures, edges, rows))
            except (RuntimeError, MemoryError) as error:
                if len(rows) == 1 or not _is_out_of_memory(error):
                    raise
                waiting = [*np.array_split(rows, 2), *waiting]
        return concatenate(parts)

    def _predict(self, structures: Structures, edges: Edges, rows: Ints) -> Prediction:
        graph = build_graph(structures, edges, rows, self.device, self.state["energy_scale"].dtype)
        with threads_for(len(graph.source) * bytes_per_edge(self.section, self.device)):
            energy, *others = evaluate(self.skeleton, self._fixed, graph)
        energy = energy.double() + zero_of(self.state, graph.numbers, graph.system, graph.counts)
        return _statistics(graph, energy, *others)

    @cached_property
    def _fixed(self) -> State:
        """The state, with the tables of the network, such as the filters of SchNet, made once and for all."""
        if self.skeleton.network.tables is None:
            return self.state
        member = deepcopy(self.skeleton).to(self.state["energy_scale"].dtype)
        tables = []
        for index in range(self.section.members):
            member.load_state_dict({name: tensor[index] for name, tensor in self.state.items()}, strict=False)
            tables.append(member.tables())
        return self.state | {name: torch.stack([each[name] for each in tables]) for name in tables[0]}

    @cached_property
    def _neighbours(self) -> NeighbourLists:
        return NeighbourLists(self.section.cutoff)

    @property
    def gives(self) -> Gives:
        """What it predicts."""
        return potential_kind(self.section).gives(self.section)

    def fresh(self) -> Ensemble:
        """The same weights, without the neighbour lists that earlier calls left."""
        return replace(self)

    def train(self, labels: Labels, seed: list[int], report: Callable[[int, int], None] = lambda *_: None) -> Trained:
        """See `csp_al.potential.training.train`."""
        from csp_al.potential.training import train

        return train(self, labels, seed, report)

    def save(self, folder: Path) -> None:
        """Write weights (a state dictionary) and what is needed to rebuild the network (JSON)."""
        # torch's own writer ends in errors without a number on a full disk
        content = BytesIO()
        torch.save({name: tensor.cpu() for name, tensor in self.state.items()}, content)
        (folder / WEIGHTS).write_bytes(content.getbuffer())
        write_sealed(folder / ABOUT, "weights", {"potential": self.section.written()}, indent=1)


def load_ensemble(folder: Path, section: NetworkPotential, device: torch.device) -> Ensemble:
    """Read what `Ensemble.save` wrote for this section of the campaign. Only tensors are unpickled.

    Raises OtherVersionError for another format, and DamagedError for another architecture, a pickle of something else,
    shapes that do not fit.
    """
    version, written = read_as_written(folder / ABOUT, "weights")
    about, state = upgraded(folder / ABOUT, "weights", version, (written, read_tensors(folder / WEIGHTS, device)))
    if not section.agrees_with(about["potential"]):
        raise DamagedError(folder / ABOUT, "another potential than the campaign's")
    member = skeleton(section, device)
    expected = {
        name: (section.members, *tensor.shape) for name, tensor in [*member.named_parameters(), *member.named_buffers()]
    }
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if found != expected:
        wrong = sorted({name for name, _ in found.items() ^ expected.items()})
        raise DamagedError(folder / WEIGHTS, f"weights that are not those of {section.kind}: {', '.join(wrong)[:200]}")
    return Ensemble(section, member, state, device)


def read_tensors(path: Path, device: torch.device) -> State:
    """A state dictionary. Raises DamagedError for anything else."""
    content = BytesIO(read_plain(path))
    if not _holds_tensors_alone(content):
        raise DamagedError(path, "no weights, or packed ones, which torch does not write")
    try:
        state = torch.load(content, map_location=device, weights_only=True)
    except NO_WEIGHTS as error:
        raise DamagedError(path, f"no weights ({type(error).__name__})") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise DamagedError(path, "no weights")
    return state


def _holds_tensors_alone(content: BytesIO) -> bool:
    """Whether these are weights as torch writes them: nothing compressed, and a pickle that makes tensors alone.

    A few MB could unpack to GB; of what torch lets a pickle call, some takes a size and makes room for it.
    """
    try:
        with zipfile.ZipFile(content) as archive:
            members = archive.infolist()
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
            if not stored or sum(member.file_size for member in members) > len(content.getbuffer()):
                return False
            pickles = [archive.read(member) for member in members if member.filename.endswith(".pkl")]
        calls = {name for one in pickles for code, name, _ in pickletools.genops(one) if code.name in IMPORTS}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, LookupError, EOFError, OSError, RuntimeError):
        return False
    content.seek(0)
    return all(isinstance(name, str) and re.fullmatch(TENSORS, name) for name in calls)


def new_ensemble(section: NetworkPotential, seed: list[int], device: torch.device) -> Ensemble:
    """Untrained members that differ by their initial weights; the seed decides them."""
    members = []
    for index in range(section.members):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng([*seed, index]).integers(2**63)))
            members.append(Member(section).to(device))
    parameters, buffers = stack_module_state(members)
    state = {name: tensor.detach() for name, tensor in (parameters | buffers).items()}
    return Ensemble(section, skeleton(section, device), state, device)


def edges_at_once(section: NetworkPotential, device: torch.device) -> int:
    """Edges that one pass may hold, so that memory is bounded whatever the pool."""
    room = MEMORY
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        room = (torch.cuda.mem_get_info(device)[0] + unused) // 2
    return room // bytes_per_edge(section, device)


def bytes_per_edge(section: NetworkPotential, device: torch.device) -> int:
    """What a pass of all members takes for each edge."""
    each = network_of(section).bytes_per_edge(device)
    return section.members * section.features * section.interactions * each


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, for which there is an error of its own on some devices only."""
    known = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(words in str(error) for words in known)


def skeleton(section: NetworkPotential, device: torch.device) -> Member:
    """The architecture, whose own weights are never used."""
    return Member(section).to(device).requires_grad_(requires_grad=False)


def evaluate(
    skeleton: Member, state: State, graph: Graph, *, differentiable: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What every member says: energies (m, n), forces (m, N, 3), stress (m, n, 3, 3), representations (m, N, d).

    Energies are relative to the zero of energy, see `Member`.
    With ``differentiable``, for training, the results can be differentiated with respect to the state, and are without
    the repulsion (`repulsion_of`), which no weight changes.
    """
    if not skeleton.conservative:
        return _by_heads(skeleton, state, graph, differentiable=differentiable)
    members = state["energy_scale"].shape[0]
    vectors = graph.vectors.expand(members, *graph.vectors.shape).clone().requires_grad_()

    def member(weights: State, vectors: Tensor) -> tuple[Tensor, ...]:
        return functional_call(skeleton, weights, (vectors, graph), tie_weights=False)

    energy, representation = vmap(member)(state, vectors)
    (slope,) = torch.autograd.grad(energy.sum(), vectors, create_graph=differentiable)
    if differentiable:
        return energy, *_derivatives(graph, slope), representation
    repulsion, steepness = repel(graph, skeleton.cutoff)
    return (energy + repulsion).detach(), *_derivatives(graph, slope + steepness), representation.detach()


def _by_heads(
    skeleton: Member, state: State, graph: Graph, *, differentiable: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `evaluate`, of networks that give forces and stress themselves: no derivative of the energy is taken."""

    def member(weights: State) -> tuple[Tensor, ...]:
        return functional_call(skeleton, weights, (graph.vectors, graph), tie_weights=False)

    with torch.set_grad_enabled(differentiable):
        energy, representation, forces, virial = vmap(member)(state)
    stress = virial / graph.volumes[:, None, None]
    if differentiable:
        return energy, forces, stress, representation
    repulsion, push, pressure = repulsion_of(graph, skeleton.cutoff)
    return energy + repulsion, forces + push, stress + pressure, representation


def repulsion_of(graph: Graph, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """The part of energies (n,), forces (N, 3) and stress (n, 3, 3) that is the same for all members."""
    energy, slope = repel(graph, cutoff)
    forces, stress = _derivatives(graph, slope[None])
    return energy, forces[0], stress[0]


def _derivatives(graph: Graph, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Forces (m, N, 3) and stress (m, n, 3, 3) from the derivatives of the energies by the vectors (m, E, 3)."""
    atoms = len(graph.numbers)
    forces = _sums(slope, graph.source, atoms) - _sums(slope, graph.target, atoms)
    virial = _sums(graph.vectors[..., :, None] * slope[..., None, :], graph.system[graph.source], len(graph.counts))
    return forces, 0.5 * (virial + virial.transpose(-1, -2)) / graph.volumes[:, None, None]


def _sums(rows: Tensor, index: Tensor, size: int) -> Tensor:
    """Sums of the rows (m, k, ...) that share an index (k,): (m, size, ...); on a CPU faster than index_add."""
    flat = rows.flatten(2)
    sums = flat.new_zeros(len(flat), size, flat.shape[2])
    return sums.scatter_add(1, index[None, :, None].expand_as(flat), flat).unflatten(2, rows.shape[2:])


def _statistics(graph: Graph, energy: Tensor, forces: Tensor, stress: Tensor, representation: Tensor) -> Prediction:
    members, _, width = representation.shape
    pooled = _sums(representation, graph.system, len(graph.counts)) / graph.counts[:, None]

    def numpy(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return tensor.double().cpu().numpy()

    def spread(tensor: Tensor) -> Tensor:
        return tensor.double().var(dim=0)

    return Prediction(
        energy=numpy(energy.double().mean(dim=0)),
        energy_sigma=numpy(spread(energy).sqrt()),
        forces=numpy(forces.double().mean(dim=0)),
        forces_sigma=numpy(spread(forces).sum(dim=-1).sqrt()),
        stress=numpy(stress.double().mean(dim=0)),
        stress_sigma=numpy(spread(stress).sum(dim=(-1, -2)).sqrt()),
        features=numpy(pooled.transpose(0, 1).reshape(len(graph.counts), members * width)),
    )


def _empty(section: NetworkPotential) -> Prediction:
    return Prediction(
        energy=np.zeros(0),
        energy_sigma=np.zeros(0),
        forces=np.zeros((0, 3)),
        forces_sigma=np.zeros(0),
        stress=np.zeros((0, 3, 3)),
        stress_sigma=np.zeros(0),
        features=np.zeros((0, section.members * section.features)),
    )
