"""Sums over pairs of atoms with filters read from a table: what SchNet spends its time on, compiled for the CPU.

All kernels see each pair of atoms once. Shapes: x, y and their gradients (m, N, F); ``table`` (m, knots, 2, F), value
and slope of the filters at distances ``spacing`` apart; ``first`` and ``second`` (P,), the atoms of each pair;
``distance`` (m, P) Å; ``pointer`` (n+1,), where the pairs of each structure begin. Structures and members share no
atoms, and are worked on side by side. Between its knots a filter is the cubic Hermite interpolation of the table,
beyond the last one it is zero.
"""

# numba takes the types from the call
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import warnings
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from numba import njit, prange

CHUNKS = 4
"""Parts of a batch whose gradients of the table are summed apart; fixed, so that no sum depends on the machine."""

REORDERED = {"reassoc", "contract", "arcp", "nsz"}
"""Liberties of the compiler: the order of sums, but not the assumption that no number is NaN."""

inlined: Any = njit(fastmath=REORDERED, inline="always", error_model="numpy")


def compiled(function: Callable[..., Any], liberties: AbstractSet[str] = REORDERED) -> Any:
    """Compile at the first call, and keep the result for the next process; where nothing can be written, say so."""
    options: dict[str, Any] = {"parallel": True, "fastmath": liberties, "nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        name = function.__name__
        warnings.warn(f"no writable folder for compiled {name}, set NUMBA_CACHE_DIR; compiled anew now", stacklevel=2)
        return njit(**options)(function)


@inlined
def weigh(weights, distance, spacing, knots):
    """The interval that a distance lies in, -1 beyond the last.

    ``weights`` (8,) become those of value and slope at both its ends, in the filter and then in the filter's slope.
    """
    if not distance < spacing * (knots - 1):
        return -1
    k = min(int(distance / spacing), knots - 2)
    t, h = distance / spacing - k, spacing
    weights[0], weights[1] = (1 + 2 * t) * (1 - t) * (1 - t), h * t * (1 - t) * (1 - t)
    weights[2], weights[3] = t * t * (3 - 2 * t), h * t * t * (t - 1)
    weights[4], weights[5] = 6 * t * (t - 1) / h, (1 - t) * (1 - 3 * t)
    weights[6], weights[7] = 6 * t * (1 - t) / h, t * (3 * t - 2)
    return k


@compiled
def convolve(x, table, spacing, first, second, distance, pointer):
    """Sum over each atom's neighbours of their x times the filters: y."""
    members, structures, features = len(x), len(pointer) - 1, x.shape[2]
    y = np.zeros_like(x)
    for task in prange(members * structures):
        m, s = task // structures, task % structures
        weights = np.empty(8, x.dtype)
        for p in range(pointer[s], pointer[s + 1]):
            k = weigh(weights, distance[m, p], spacing, table.shape[1])
            if k < 0:
                continue
            a, b, c, d = weights[0], weights[1], weights[2], weights[3]
            low, high = table[m, k], table[m, k + 1]
            x_i, x_j, y_i, y_j = x[m, first[p]], x[m, second[p]], y[m, first[p]], y[m, second[p]]
            for f in range(features):
                w = a * low[0, f] + b * low[1, f] + c * high[0, f] + d * high[1, f]
                y_i[f] += w * x_j[f]
                y_j[f] += w * x_i[f]
    return y


@compiled
def slopes(x, table, spacing, first, second, distance, pointer, g):
    """Derivatives of sum(g y) by x and by the distances (m, P)."""
    members, structures, features = len(x), len(pointer) - 1, x.shape[2]
    by_x, by_distance = np.zeros_like(x), np.zeros_like(distance)
    for task in prange(members * structures):
        m, s = task // structures, task % structures
        weights = np.empty(8, x.dtype)
        for p in range(pointer[s], pointer[s + 1]):
            k = weigh(weights, distance[m, p], spacing, table.shape[1])
            if k < 0:
                continue
            a, b, c, d = weights[0], weights[1], weights[2], weights[3]
            da, db, dc, dd = weights[4], weights[5], weights[6], weights[7]
            low, high = table[m, k], table[m, k + 1]
            x_i, x_j, g_i, g_j = x[m, first[p]], x[m, second[p]], g[m, first[p]], g[m, second[p]]
            by_i, by_j = by_x[m, first[p]], by_x[m, second[p]]
            slope = x.dtype.type(0)
            for f in range(features):
                w = a * low[0, f] + b * low[1, f] + c * high[0, f] + d * high[1, f]
                v = da * low[0, f] + db * low[1, f] + dc * high[0, f] + dd * high[1, f]
                slope += v * (g_i[f] * x_j[f] + g_j[f] * x_i[f])
                by_i[f] += w * g_j[f]
                by_j[f] += w * g_i[f]
            by_distance[m, p] = slope
    return by_x, by_distance


@compiled
def curvatures(x, table, spacing, first, second, distance, pointer, g, u, v):
    """Derivatives by x, the table and g of what `slopes` returns, times u (m, N, F) and v (m, P)."""
    members, structures, features = len(x), len(pointer) - 1, x.shape[2]
    by_x, by_g = np.zeros_like(x), np.zeros_like(x)
    by_table = np.zeros((CHUNKS, members, table.shape[1], 2, features), x.dtype)
    for task in prange(members * CHUNKS):
        m, chunk = task // CHUNKS, task % CHUNKS
        begin, end = pointer[structures * chunk // CHUNKS], pointer[structures * (chunk + 1) // CHUNKS]
        weights = np.empty(8, x.dtype)
        for p in range(begin, end):
            k = weigh(weights, distance[m, p], spacing, table.shape[1])
            if k < 0:
                continue
            a, b, c, d = weights[0], weights[1], weights[2], weights[3]
            along = v[m, p]
            da, db, dc, dd = along * weights[4], along * weights[5], along * weights[6], along * weights[7]
            low, high, by_low, by_high = table[m, k], table[m, k + 1], by_table[chunk, m, k], by_table[chunk, m, k + 1]
            x_i, x_j, g_i, g_j = x[m, first[p]], x[m, second[p]], g[m, first[p]], g[m, second[p]]
            u_i, u_j = u[m, first[p]], u[m, second[p]]
            for f in range(features):
                across = g_i[f] * u_j[f] + g_j[f] * u_i[f]
                slope = g_i[f] * x_j[f] + g_j[f] * x_i[f]
                by_low[0, f] += a * across + da * slope
                by_low[1, f] += b * across + db * slope
                by_high[0, f] += c * across + dc * slope
                by_high[1, f] += d * across + dd * slope
            by_x_i, by_x_j = by_x[m, first[p]], by_x[m, second[p]]
            by_g_i, by_g_j = by_g[m, first[p]], by_g[m, second[p]]
            for f in range(features):
                w = a * low[0, f] + b * low[1, f] + c * high[0, f] + d * high[1, f]
                dw = da * low[0, f] + db * low[1, f] + dc * high[0, f] + dd * high[1, f]
                by_x_i[f] += dw * g_j[f]
                by_x_j[f] += dw * g_i[f]
                by_g_i[f] += w * u_j[f] + dw * x_j[f]
                by_g_j[f] += w * u_i[f] + dw * x_i[f]
    return by_x, by_table.sum(axis=0), by_g
