"""What atoms receive from their neighbours in LEIGNN, and its derivatives: compiled on the CPU, plain torch elsewhere.

The filters are read from a table, as SchNet's (`csp_al.potential.networks.schnet`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any, NamedTuple

import torch
from numba import set_num_threads
from numba.core.config import NUMBA_NUM_THREADS
from torch import Tensor
from torch.nn.functional import pad

from csp_al.potential.networks import angular_kernels as kernels
from csp_al.potential.networks.angular_kernels import WIDTH
from csp_al.potential.networks.schnet import Pairs


class Geometry(NamedTuple):
    """Of pairs of atoms: distance (P,) Å, and angles (P, 8), see `angular_functions`."""

    distance: Tensor
    angles: Tensor


def angular_functions(vectors: Tensor) -> Geometry:
    """Distance, unit vector and real spherical harmonics of l = 2 of vectors (P, 3).

    The harmonics are scaled so that they make a unit vector of five components.
    """
    distance = vectors.norm(dim=1)
    n = vectors / distance[:, None]
    x, y, z = n.unbind(1)
    root = sqrt(3)
    second = [root * x * y, root * y * z, 1.5 * z * z - 0.5, root * x * z, 0.5 * root * (x * x - y * y)]
    return Geometry(distance, torch.cat([n, torch.stack(second, dim=1)], dim=1))


def gather(x: Sequence[Tensor], table: Tensor, spacing: float, geometry: Geometry, pairs: Pairs) -> tuple[Tensor, ...]:
    """What each atom receives: a scalar (N, 1, F), a vector (N, 3, F) and, with tensors, components of l = 2 (N, 5, F).

    Each gives ``x``, a scalar (N, 1, F), a vector (N, 3, F), a scalar that the direction from the giver to the receiver
    turns into a vector, and with tensors one that becomes five components, (N, 1 or 2, F). ``table`` (knots, 2, 3 or 4,
    F) holds values and slopes of the filters of these four at distances ``spacing`` apart, which end at the last.
    """
    if table.device.type != "cpu":
        return _parts(plain_gather(torch.cat(tuple(x), dim=1), table, spacing, geometry, pairs), dim=1)
    features = table.shape[-1]
    rows = torch.cat([_in_blocks(part) for part in x], dim=-2)
    # blocks before knots
    filters = _in_blocks(table).movedim(-3, 0)
    one = (each[None] for each in (rows.flatten(-2), filters.flatten(-2), *geometry))
    y = _Messages.apply(*one, spacing, pairs).squeeze(0).unflatten(-1, (-1, WIDTH))
    return tuple(part.movedim(-3, -2).flatten(-2)[..., :features] for part in _parts(y, dim=-2))


def _parts(y: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Scalar, vector and, where there are any, components of l = 2."""
    return y.split([1, 3, 5] if y.shape[dim] == 9 else [1, 3], dim=dim)


def _in_blocks(tensor: Tensor) -> Tensor:
    """Rows (..., K, F) in blocks (..., b, K, WIDTH), the last filled up with zeros."""
    short = -tensor.shape[-1] % WIDTH
    return (pad(tensor, (0, short)) if short else tensor).unflatten(-1, (-1, WIDTH)).movedim(-2, -3)


def plain_gather(x: Tensor, table: Tensor, spacing: float, geometry: Geometry, pairs: Pairs) -> Tensor:
    """As `gather`, by operations of torch."""
    filters = _interpolated(table, spacing, geometry.distance)
    y = x.new_zeros(len(x), 9 if x.shape[1] == 6 else 4, x.shape[2])
    for of, to, sign in ((pairs.first, pairs.second, 1), (pairs.second, pairs.first, -1)):
        given = x[of]
        direction, components = sign * geometry.angles[:, :3, None], geometry.angles[:, 3:, None]
        vector = filters[:, 1:2] * given[:, 1:4] + direction * filters[:, 2:3] * given[:, 4:5]
        parts = [filters[:, :1] * given[:, :1], vector]
        if x.shape[1] == 6:
            parts.append(components * filters[:, 3:4] * given[:, 5:6])
        y = y.index_add(0, to, torch.cat(parts, dim=1))
    return y


def _interpolated(table: Tensor, spacing: float, distance: Tensor) -> Tensor:
    """The table (knots, 2, K, F) between its knots, (P, K, F)."""
    within = (distance < spacing * (len(table) - 1))[:, None, None]
    place = (distance / spacing).detach().floor().clamp(max=len(table) - 2).long()
    t = (distance / spacing - place)[:, None, None]
    low, high = table[place], table[place + 1]
    values = (1 + 2 * t) * (1 - t) ** 2 * low[:, 0] + t**2 * (3 - 2 * t) * high[:, 0]
    return within * (values + spacing * (t * (1 - t) ** 2 * low[:, 1] + t**2 * (t - 1) * high[:, 1]))


class _Messages(torch.autograd.Function):
    """Of many members, (m, ...), at once; `vmap` turns its members into these."""

    @staticmethod
    def forward(x: Tensor, table: Tensor, distance: Tensor, angles: Tensor, spacing: float, pairs: Pairs) -> Tensor:
        return _run(kernels.gather, x, table, distance, angles, spacing, pairs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        *tensors, ctx.spacing, ctx.pairs = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        *tensors, spacing, pairs = inputs
        flat = (
            (tensor.expand(info.batch_size, *tensor.shape) if axis is None else tensor.movedim(axis, 0)).flatten(0, 1)
            for tensor, axis in zip(tensors, in_dims[:4], strict=True)
        )
        return _Messages.apply(*flat, spacing, pairs).unflatten(0, (info.batch_size, -1)), 0

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, table, distance, angles = ctx.saved_tensors
        if torch.is_grad_enabled():  # forces, which a loss will be made of; nobody asks for the table's gradient then
            by_x, by_distance, by_angles = _Slopes.apply(x, table, distance, angles, g, ctx.spacing, ctx.pairs)
            return by_x, _unknown(table), by_distance, by_angles, None, None
        by_x, by_geometry, by_table = _run(
            kernels.slopes, *ctx.saved_tensors, ctx.spacing, ctx.pairs, g, ctx.needs_input_grad[1]
        )
        return by_x, by_table if ctx.needs_input_grad[1] else None, *_of(by_geometry), None, None


class _Slopes(torch.autograd.Function):
    """The backward pass of messages, which can itself be differentiated, but not by distances and angles."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        table: Tensor,
        distance: Tensor,
        angles: Tensor,
        g: Tensor,
        spacing: float,
        pairs: Pairs,
    ) -> tuple[Tensor, ...]:
        ctx.spacing, ctx.pairs = spacing, pairs
        ctx.save_for_backward(x, table, distance, angles, g)
        by_x, by_geometry, _ = _run(kernels.slopes, x, table, distance, angles, spacing, pairs, g, False)
        return by_x, *_of(by_geometry)

    @staticmethod
    def backward(ctx: Any, *along: Tensor) -> tuple[Tensor | None, ...]:
        *others, g = ctx.saved_tensors
        by_x, by_table, by_g = _run(kernels.curvatures, *others, ctx.spacing, ctx.pairs, g, *along)
        return by_x, by_table, *map(_unknown, others[2:]), by_g, None, None


def _of(by_geometry: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by distance and angles."""
    return by_geometry[..., 0], by_geometry[..., 1:]


def _unknown(tensor: Tensor) -> Tensor:
    """The gradient by a tensor that nothing here needs: whoever does is not to take it for zero."""
    return tensor.new_full((), torch.nan).expand_as(tensor)


def _run(
    kernel: Any,
    x: Tensor,
    table: Tensor,
    distance: Tensor,
    angles: Tensor,
    spacing: float,
    pairs: Pairs,
    *others: Tensor | bool,
) -> Any:
    """Call a kernel with arrays of one precision, on as many threads as torch uses."""
    set_num_threads(min(torch.get_num_threads(), NUMBA_NUM_THREADS))
    tensors = (x, table, distance, angles, *others)
    arrays: list[Any] = [
        each if isinstance(each, bool) else each.detach().to(x.dtype).contiguous().numpy() for each in tensors
    ]
    x_, table_, distance_, angles_, *others_ = arrays
    first, second, pointer = (tensor.numpy() for tensor in pairs)
    result = kernel(x_, table_, x_.dtype.type(spacing), first, second, distance_, angles_, pointer, *others_)
    return tuple(map(torch.from_numpy, result)) if isinstance(result, tuple) else torch.from_numpy(result)
