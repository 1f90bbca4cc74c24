"""A trained direct relaxer: what it predicts, and how it is kept.

    relaxer = load_relaxer(Path("model"), torch.device("cpu"))
    relaxer.predict(structures, free).structures

``deeprelax`` (Z. Yang et al., arXiv:2404.00865) predicts the distances of neighbours in the relaxed crystal with the
width of their errors, and its cell; the positions are those that agree best with all distances (Euclidean distance
geometry). It differs from the published one in this: distances and cell are predicted as changes of the input's
(`csp_al.direct.network`), volumes come from the composition where that is nearer (`csp_al.direct.vegard`), distances
between an atom before and another after are not used, and positions minimise the squared errors in units of the widths,
by the solver of `csp_al.direct.springs`, where published are bounds of one width and Adam.

``dogss`` (J. Yoon, Z. W. Ulissi, Phys. Rev. Lett. 125, 173001) ties atoms by springs whose lengths and stiffness the
network predicts, keeps the cell, and holds atoms that must not move. It learns through the solver from where atoms
should end. Members are averaged over their positions.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols
from pydantic import Field, TypeAdapter
from torch import Tensor

from csp_al.campaign.section import Positive, Section
from csp_al.direct.network import Cell, DirectNetwork, Said
from csp_al.direct.section import DirectSection
from csp_al.direct.springs import Patience, settle
from csp_al.direct.vegard import Volumes
from csp_al.files import DamagedError, read_sealed, validated, write_atomically, write_sealed
from csp_al.formats import SPECIES
from csp_al.potential.ensemble import State, read_tensors
from csp_al.potential.graphs import batches_by_edges, build_graph, find_edges
from csp_al.potential.networks.member import Graph
from csp_al.structures import Bools, Floats, Structures

LEARNT_SPRINGS: Final = Patience(least=30, most=150, tolerance=5e-4)
"""As published: a network can learn around what is not yet at rest."""
DISTANCES: Final = Patience(least=30, most=500, tolerance=1e-4)
ABOUT, WEIGHTS = "relaxer.json", "weights.pt"
EDGES_AT_ONCE: Final = 200_000
"""Of one pass: about a gigabyte."""


class Predicted(NamedTuple):
    """Relaxed structures, how far they may be off (n,) Å, and whether that is no more than for what was learnt."""

    structures: Structures
    uncertainty: Floats
    trusted: Bools


@dataclass(frozen=True)
class Relaxer:
    """Members of one kind, the elements that they saw, and the volumes of these where they are used.

    ``gate`` (Å) is the uncertainty that all but few of the pairs stay below that training held out; ``learnt`` says
    what training saw, for people.
    """

    section: DirectSection
    cell: Cell
    elements: tuple[int, ...]
    volumes: Volumes | None
    members: tuple[DirectNetwork, ...]
    device: torch.device
    gate: float = np.inf
    learnt: dict[str, Any] | None = None

    def predict(self, structures: Structures, free: Bools) -> Predicted:
        """Where structures come to rest; ``free`` (N,) are the atoms that may move. Raises ValueError, see `refuse`."""
        self.refuse(structures, free)
        start = structures if self.volumes is None else self.volumes.scaled(structures)
        edges = find_edges(start, self.section.cutoff)
        positions, cells, uncertainty = start.positions.copy(), start.cells.copy(), np.zeros(len(start))
        for rows in batches_by_edges(edges, EDGES_AT_ONCE):
            graph = build_graph(start, edges, rows, self.device)
            atoms = start.atoms_of(rows)
            with torch.no_grad():
                stretch, moves, off = self._ends(graph, torch.from_numpy(free[atoms]).to(self.device))
            stretches = _numpy(torch.matrix_exp(stretch.double()))
            system = np.repeat(np.arange(len(rows)), start.counts[rows])
            cells[rows] = start.cells[rows] @ stretches
            positions[atoms] = np.einsum("ni,nij->nj", start.positions[atoms], stretches[system]) + _numpy(moves)
            uncertainty[rows] = _numpy(off)
        return Predicted(start.moved(positions, cells), uncertainty, uncertainty <= self.gate)

    def refuse(self, structures: Structures, free: Bools) -> None:
        """Raise ValueError for what it never saw: other elements, and held atoms where the cell moves."""
        unknown = ~np.isin(structures.numbers, self.elements)
        if unknown.any():
            atom = int(np.flatnonzero(unknown)[0])
            known = ", ".join(chemical_symbols[number] for number in self.elements)
            symbol = chemical_symbols[structures.numbers[atom]]
            raise ValueError(f"frame {structures.system[atom]}: {symbol}, but the pairs learnt from had only {known}")
        if self.cell != "fixed" and not free.all():
            frame = structures.system[np.flatnonzero(~free)[0]]
            raise ValueError(f"frame {frame}: atoms that must not move, but this model moves the cell with all atoms")

    def _ends(self, graph: Graph, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithm of the stretch (n, 3, 3), moves besides it (N, 3) Å, and uncertainty (n,) Å."""
        said = [member(graph, free) for member in self.members]
        if self.section.kind == "dogss":
            moves = torch.stack([learnt_springs(graph, each, free) for each in said])
            spread = moves.var(dim=0, correction=0).sum(dim=1) * free
            counts = _sums(free.to(spread), graph.system, graph)
            off = (_sums(spread, graph.system, graph) / counts.clamp_min(1)).sqrt()
            return said[0].strain, moves.mean(dim=0), off
        return joined(graph, said, free)


def learnt_springs(graph: Graph, said: Said, free: Tensor) -> Tensor:
    """Where a member's springs bring the atoms (N, 3) Å."""
    return settle(graph, said.distance, said.stiffness, free, LEARNT_SPRINGS)


def joined(graph: Graph, said: list[Said], free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Strain, moves and uncertainty of what several members say of distances (arXiv:2404.00865, eqs. 21 to 24).

    The uncertainty is told as a length, the square root of the published sum.
    """
    distances = torch.stack([each.distance for each in said])
    widths = torch.stack([each.log_width for each in said]).exp().mean(dim=0)
    strain = torch.stack([each.strain for each in said]).mean(dim=0)
    disagreement = distances.var(dim=0, correction=0)
    owner = graph.system[graph.source]
    edges = graph.pointer.diff().to(widths).clamp_min(1)
    aleatoric = (_sums(widths, owner, graph) / edges).square()
    epistemic = _sums(disagreement, owner, graph) / edges
    certainty = 1 / (widths.square() + disagreement)
    certainty = certainty / (_sums(certainty, owner, graph) / edges)[owner]
    stretched = torch.einsum("ek,ekl->el", graph.vectors, torch.matrix_exp(strain)[owner])
    moves = settle(graph._replace(vectors=stretched), distances.mean(dim=0), certainty, free, DISTANCES)
    return strain, moves, (aleatoric + epistemic).sqrt()


def _sums(rows: Tensor, owner: Tensor, graph: Graph) -> Tensor:
    """Sums (n,) of numbers over the structures that they belong to."""
    return rows.new_zeros(len(graph.counts)).index_add(0, owner, rows)


def _numpy(tensor: Tensor) -> Floats:
    return tensor.double().cpu().numpy()


class _About(Section):
    section: DirectSection
    cell: Cell
    elements: Annotated[list[Annotated[int, Field(ge=1, lt=SPECIES)]], Field(min_length=1)]
    volumes: list[Positive] | None
    gate: Annotated[float, Field(ge=0)]
    learnt: dict[str, Any]


def save_relaxer(folder: Path, relaxer: Relaxer) -> None:
    """Write weights (plain tensors) and what they mean (JSON) into a folder that exists."""
    volumes = relaxer.volumes
    state = {f"{m}.{name}": t for m, member in enumerate(relaxer.members) for name, t in member.state_dict().items()}
    write_atomically(folder / WEIGHTS, as_bytes(state))
    about = {
        "section": relaxer.section.written(),
        "cell": relaxer.cell,
        "elements": list(relaxer.elements),
        "volumes": volumes and volumes.of_elements[list(relaxer.elements)].tolist(),
        "gate": relaxer.gate,
        "learnt": relaxer.learnt,
    }
    write_sealed(folder / ABOUT, "relaxer", about, indent=1)


def as_bytes(state: State) -> bytes:
    """Tensors by name as torch writes them."""
    content = io.BytesIO()
    torch.save({name: tensor.detach().cpu() for name, tensor in state.items()}, content)
    return content.getvalue()


def load_relaxer(folder: Path, device: torch.device) -> Relaxer:
    """Read what `save_relaxer` wrote; only tensors are unpickled.

    Raises ValueError, in words, where there is no model or something else, OtherVersionError for another format.
    """
    try:
        about = validated(TypeAdapter(_About), read_sealed(folder / ABOUT, "relaxer"), folder / ABOUT)
        state = read_tensors(folder / WEIGHTS, device)
        members = _members(about.section, about.cell, state, folder / WEIGHTS)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{folder}: no model; 'csp-al relaxer train PAIRS --out {folder}' makes one") from error
    except DamagedError as error:
        raise ValueError(f"{error.path}: {error.what}; this is no model of ours, train it again") from error
    of_elements = np.zeros(SPECIES)
    if about.volumes is not None:
        if len(about.volumes) != len(about.elements):
            raise ValueError(f"{folder / ABOUT}: {len(about.volumes)} volumes of {len(about.elements)} elements")
        of_elements[about.elements] = about.volumes
    return Relaxer(
        about.section,
        about.cell,
        tuple(about.elements),
        None if about.volumes is None else Volumes(of_elements),
        tuple(member.to(device) for member in members),
        device,
        about.gate,
        about.learnt,
    )


def _members(section: DirectSection, cell: Cell, state: State, path: Path) -> list[DirectNetwork]:
    """The networks with these weights. Raises DamagedError where the weights are not theirs."""
    largest = max((tensor.numel() for tensor in state.values()), default=0)
    if section.features > largest or section.members * section.interactions > len(state):
        raise DamagedError(path, "weights of another network")  # one that might not fit into memory
    members = []
    for index in range(section.members):
        member = DirectNetwork(section, cell)
        prefix = f"{index}."
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in member.state_dict().items()}:
            raise DamagedError(path, "weights of another network")
        member.load_state_dict(own)
        members.append(member.requires_grad_(requires_grad=False))
    if len(state) != sum(len(member.state_dict()) for member in members):
        raise DamagedError(path, "weights of another network")
    return members
