"""schnetpack's SchNet with its filters read from a table.

A filter depends on the distance alone. So the filter-generating networks are asked at a few hundred distances instead
of at every pair of atoms, for values and slopes, and cubic Hermite interpolation gives the rest: in training too,
where the weights are the same and the gradient reaches them through the table. What is left for each pair is a
multiplication and a sum.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import schnetpack as spk
import torch
from numba import set_num_threads
from numba.core.config import NUMBA_NUM_THREADS
from schnetpack import properties as keys
from torch import Tensor, nn
from torch.func import jvp

from csp_al.potential.networks import kernels
from csp_al.potential.networks.member import POINTER, Network, schnetpack_keywords

KNOTS_PER_WIDTH = 8
"""Of a radial basis function. Largest errors, in shares of the largest value of a filter: 7e-5 with 4, 4e-6 with 8,
3e-7 with 16 (of trained ones a fifth of that); single precision resolves 1e-7, and a sum over neighbours less."""

KEPT, KEPT_COMPILED = 80, 10
"""Bytes that a pass takes, see `Network`; with compiled kernels, which keep one byte, of what belongs to atoms."""


class Pairs(NamedTuple):
    """The atoms of each pair (P,), each pair once, and where those of each structure begin (n+1,)."""

    first: Tensor
    second: Tensor
    pointer: Tensor


class SchNet(spk.representation.SchNet):
    """As schnetpack's, with its names of weights and its activation, for inputs that hold each pair of atoms once.

    ``tables`` (interactions, knots, 2, F) holds values and slopes of the filters at equally spaced distances. It is
    empty, and the networks are asked in every pass, unless somebody who knows that the weights are final sets it.
    """

    tables: Tensor

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.register_buffer("tables", torch.empty(0), persistent=False)
        # no buffer: the same for all members, it would be stacked and saved with each
        self.at_knots = values_and_slopes(self.radial_basis, self.cutoff_fn, float(self.cutoff))

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the scalar representation (N, F)."""
        pairs = Pairs(inputs[keys.idx_i], inputs[keys.idx_j], inputs[POINTER])
        distance = inputs[keys.Rij].norm(dim=1)
        x = self.embedding(inputs[keys.Z])
        tables = self.tables if self.tables.numel() else self.tabulate()
        spacing = float(self.cutoff) / (tables.shape[1] - 1)
        for interaction, table in zip(self.interactions, tables, strict=True):
            x = x + interaction.f2out(convolve(interaction.in2f(x), table, spacing, distance, pairs))
        return inputs | {"scalar_representation": x}

    def tabulate(self) -> Tensor:
        """What belongs into ``tables``."""
        basis, basis_slope, fade, fade_slope = (tensor.to(self.embedding.weight) for tensor in self.at_knots)
        tables = []
        for interaction in self.interactions:
            first, second = interaction.filter_network
            inner, inner_slope = _linear(first, basis, basis_slope)
            hidden, hidden_slope = first.activation(inner), torch.sigmoid(inner) * inner_slope  # of a shifted softplus
            value, slope = _linear(second, hidden, hidden_slope)
            tables.append(torch.stack([value * fade, slope * fade + value * fade_slope], dim=1))
        return torch.stack(tables)


def values_and_slopes(radial_basis: Any, cutoff_fn: Any, cutoff: float) -> tuple[Tensor, ...]:
    """Of the radial basis (knots, K) and of the cutoff function (knots, 1), which no training moves, up to the cutoff.

    They are in double precision, whatever the weights are in.
    """
    basis, fade = deepcopy(radial_basis).double(), deepcopy(cutoff_fn).double()
    knots = KNOTS_PER_WIDTH * (radial_basis.n_rbf - 1) + 1
    distance = torch.linspace(0, cutoff, knots, dtype=torch.float64)
    along = torch.ones_like(distance)
    return *jvp(basis, (distance,), (along,)), *jvp(fade, (distance[:, None],), (along[:, None],))


def _linear(layer: nn.Linear, at: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Value of a linear layer and its slope, along a distance along which its argument has this slope."""
    return nn.functional.linear(at, layer.weight, layer.bias), nn.functional.linear(slope, layer.weight)


def convolve(x: Tensor, table: Tensor, spacing: float, distance: Tensor, pairs: Pairs) -> Tensor:
    """Sum over each atom's neighbours of their features (N, F) times the filters at their distances (P,): (N, F).

    On the CPU by compiled kernels; elsewhere by plain operations of torch, in several times the memory.
    """
    if x.device.type == "cpu":
        result: Tensor = _Convolution.apply(x[None], table[None], distance[None], spacing, pairs)[0]
        return result
    return plain_convolve(x, table, spacing, distance, pairs)


def plain_convolve(x: Tensor, table: Tensor, spacing: float, distance: Tensor, pairs: Pairs) -> Tensor:
    """As `convolve`, by operations of torch."""
    place = (distance / spacing).detach().floor()
    within = (distance < spacing * (len(table) - 1))[:, None]
    place = place.clamp(max=len(table) - 2).long()
    t = (distance / spacing - place)[:, None]
    low, high = table[place], table[place + 1]
    values = (1 + 2 * t) * (1 - t) ** 2 * low[:, 0] + t**2 * (3 - 2 * t) * high[:, 0]
    slopes = t * (1 - t) ** 2 * low[:, 1] + t**2 * (t - 1) * high[:, 1]
    filters = within * (values + spacing * slopes)
    y = torch.zeros_like(x).index_add(0, pairs.first, filters * x[pairs.second])
    return y.index_add(0, pairs.second, filters * x[pairs.first])


class _Convolution(torch.autograd.Function):
    """Of many members, (m, ...), at once; `vmap` turns its members into these."""

    @staticmethod
    def forward(x: Tensor, table: Tensor, distance: Tensor, spacing: float, pairs: Pairs) -> Tensor:
        return _run(kernels.convolve, x, table, distance, spacing, pairs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        x, table, distance, ctx.spacing, ctx.pairs = inputs
        ctx.save_for_backward(x, table, distance)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        *tensors, spacing, pairs = inputs
        x, table, distance = (
            (tensor.expand(info.batch_size, *tensor.shape) if axis is None else tensor.movedim(axis, 0)).flatten(0, 1)
            for tensor, axis in zip(tensors, in_dims[:3], strict=True)
        )
        return _Convolution.apply(x, table, distance, spacing, pairs).unflatten(0, (info.batch_size, -1)), 0

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, table, distance = ctx.saved_tensors
        if torch.is_grad_enabled():  # forces, which a loss will be made of; nobody asks for the table's gradient then
            by_x, by_distance = _Slopes.apply(x, table, distance, g, ctx.spacing, ctx.pairs)
            return by_x, _unknown(table), by_distance, None, None
        by_x, by_distance = _run(kernels.slopes, x, table, distance, ctx.spacing, ctx.pairs, g)
        by_table = None
        if ctx.needs_input_grad[1]:
            none = torch.zeros_like(distance)
            _, by_table, _ = _run(kernels.curvatures, x, table, distance, ctx.spacing, ctx.pairs, g, x, none)
        return by_x, by_table, by_distance, None, None


class _Slopes(torch.autograd.Function):
    """The backward pass of a convolution, which can itself be differentiated, but not by the distances."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, distance: Tensor, g: Tensor, spacing: float, pairs: Pairs) -> Any:
        ctx.spacing, ctx.pairs = spacing, pairs
        ctx.save_for_backward(x, table, distance, g)
        return _run(kernels.slopes, x, table, distance, spacing, pairs, g)

    @staticmethod
    def backward(ctx: Any, u: Tensor, v: Tensor) -> tuple[Tensor | None, ...]:
        x, table, distance, g = ctx.saved_tensors
        by_x, by_table, by_g = _run(kernels.curvatures, x, table, distance, ctx.spacing, ctx.pairs, g, u, v)
        return by_x, by_table, _unknown(distance), by_g, None, None


def _unknown(tensor: Tensor) -> Tensor:
    """The gradient by a tensor that nothing here needs: whoever does is not to take it for zero."""
    return tensor.new_full((), torch.nan).expand_as(tensor)


def _run(kernel: Any, x: Tensor, table: Tensor, distance: Tensor, spacing: float, pairs: Pairs, *others: Tensor) -> Any:
    """Call a kernel with arrays of one precision, on as many threads as torch uses."""
    set_num_threads(min(torch.get_num_threads(), NUMBA_NUM_THREADS))
    tensors = (tensor.detach().to(x.dtype).contiguous().numpy() for tensor in (x, table, distance, *others))
    x_, table_, distance_, *others_ = tensors
    first, second, pointer = (tensor.numpy() for tensor in pairs)
    result = kernel(x_, table_, x_.dtype.type(spacing), first, second, distance_, pointer, *others_)
    return tuple(map(torch.from_numpy, result)) if isinstance(result, tuple) else torch.from_numpy(result)


def _tables(representation: nn.Module) -> dict[str, Tensor]:
    assert isinstance(representation, SchNet)
    return {"tables": representation.tabulate()}


NETWORK = Network(
    representation=lambda section: SchNet(**schnetpack_keywords(section)),
    bytes_per_edge=lambda device: KEPT_COMPILED if device.type == "cpu" else KEPT,
    each_pair_once=True,
    tables=_tables,
)
