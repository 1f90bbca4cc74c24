"""Sums over pairs of atoms with filters and directions: what LEIGNN spends its time on, compiled for the CPU.

As in `kernels`, all see each pair of atoms once, with filters read from a table. Features come in blocks of WIDTH, so
that the compiler knows the lengths of inner loops, without which they are 2.5 times slower. An atom gives rows of WIDTH
numbers, in this order: a scalar, a vector (3), a scalar that the direction turns into a vector, and with tensors one
that it turns into five components. It receives a scalar, a vector (3) and with tensors the components (5). There are
filters for each of the three or four that are given.

Shapes: x, u and their gradients (m, N, b, 5 or 6 WIDTH), y and g (m, N, b, 4 or 9 WIDTH), for m members and b blocks;
``table`` (m, b, knots, 2, 3 or 4 WIDTH); ``distance`` (m, P) Å; ``angles`` (m, P, 8), the unit vector from the first to
the second atom and the components of l = 2; ``first``, ``second`` and ``pointer`` as in `kernels`.
"""

# numba takes the types from the call
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from functools import partial
from typing import Any, Final

import numpy as np
from numba import njit, prange

from csp_al.potential.networks.kernels import CHUNKS, REORDERED, compiled, inlined, weigh

WIDTH: Final = 16
V, W, T = WIDTH, 4 * WIDTH, 5 * WIDTH
"""Where the rows of the vector, the directed scalar and the tensor begin; the components received begin at W."""

strict: Any = partial(compiled, liberties={"nsz"})
"""No sum in another order and no fused multiplication but in `_add_sums`. Loops that write several arrays are compiled
twice, for arrays that may overlap and for others; which of both runs depends on where in memory they are, and the last
bits would with it: a kernel just compiled gave others than the same kernel read from the cache."""


@njit(fastmath=REORDERED, error_model="numpy")
def _add_sums(by, slope, by_filters, turns):
    """To the derivatives by distance and angles (9,) of a pair, those of all features."""
    total = by.dtype.type(0)
    for f in range(len(slope)):
        total += slope[f] * by_filters[f]
    by[0] += total
    for c in range(8):
        total = by.dtype.type(0)
        for f in range(WIDTH):
            total += turns[c, f]
        by[1 + c] += total


@inlined
def _read(filters, low, high, a, b, c, d):
    """Filters between two knots."""
    for f in range(low.shape[1]):
        filters[f] = a * low[0, f] + b * low[1, f] + c * high[0, f] + d * high[1, f]


@inlined
def _add(by_low, by_high, by_filters, a, b, c, d):
    """To the gradient of two knots that of the filters between them."""
    for f in range(by_low.shape[1]):
        by_low[0, f] += a * by_filters[f]
        by_low[1, f] += b * by_filters[f]
        by_high[0, f] += c * by_filters[f]
        by_high[1, f] += d * by_filters[f]


@strict
def gather(x, table, spacing, first, second, distance, angles, pointer):
    """What each atom receives from its neighbours: y."""
    members, structures, blocks = len(x), len(pointer) - 1, x.shape[2]
    tensors = x.shape[3] > T
    y = np.zeros((members, x.shape[1], blocks, (9 if tensors else 4) * WIDTH), x.dtype)
    for task in prange(members * blocks * structures):
        m, b, s = task // (blocks * structures), task // structures % blocks, task % structures
        weights, w = np.empty(8, x.dtype), np.empty(table.shape[4], x.dtype)
        for p in range(pointer[s], pointer[s + 1]):
            k = weigh(weights, distance[m, p], spacing, table.shape[2])
            if k < 0:
                continue
            _read(w, table[m, b, k], table[m, b, k + 1], weights[0], weights[1], weights[2], weights[3])
            n = angles[m, p]
            for way in range(2):
                sign = x.dtype.type(1 - 2 * way)
                of, to = (second[p], first[p]) if way else (first[p], second[p])
                x_j, y_i = x[m, of, b], y[m, to, b]
                n0, n1, n2 = sign * n[0], sign * n[1], sign * n[2]
                for f in range(WIDTH):
                    y_i[f] += w[f] * x_j[f]
                    carried, directed = w[V + f], w[2 * WIDTH + f] * x_j[W + f]
                    y_i[V + f] += carried * x_j[V + f] + n0 * directed
                    y_i[V + WIDTH + f] += carried * x_j[V + WIDTH + f] + n1 * directed
                    y_i[V + 2 * WIDTH + f] += carried * x_j[V + 2 * WIDTH + f] + n2 * directed
                if tensors:
                    for f in range(WIDTH):
                        directed = w[3 * WIDTH + f] * x_j[T + f]
                        for c in range(5):
                            y_i[W + c * WIDTH + f] += n[3 + c] * directed
    return y


@strict
def slopes(x, table, spacing, first, second, distance, angles, pointer, g, learn):
    """Derivatives of sum(g y) by x, by distance and angles (m, P, 9), and where it is to be learnt, by the table."""
    members, structures, blocks, width = len(x), len(pointer) - 1, x.shape[2], table.shape[4]
    tensors, chunks = x.shape[3] > T, CHUNKS if learn else structures
    by_x, by_geometry = np.zeros_like(x), np.zeros((members, len(first), 9), x.dtype)
    by_table = np.zeros((chunks if learn else 0, members, blocks, table.shape[2], 2, width), x.dtype)
    for task in prange(members * chunks):
        m, chunk = task // chunks, task % chunks
        begin, end = pointer[structures * chunk // chunks], pointer[structures * (chunk + 1) // chunks]
        weights, w, v = np.empty(8, x.dtype), np.empty(width, x.dtype), np.empty(width, x.dtype)
        by_w, turns = np.empty(width, x.dtype), np.empty((8, WIDTH), x.dtype)
        for b in range(blocks):
            for p in range(begin, end):
                k = weigh(weights, distance[m, p], spacing, table.shape[2])
                if k < 0:
                    continue
                low, high = table[m, b, k], table[m, b, k + 1]
                _read(w, low, high, weights[0], weights[1], weights[2], weights[3])
                _read(v, low, high, weights[4], weights[5], weights[6], weights[7])
                n, by = angles[m, p], by_geometry[m, p]
                by_w[:] = 0
                turns[:] = 0
                for way in range(2):
                    sign = x.dtype.type(1 - 2 * way)
                    of, to = (second[p], first[p]) if way else (first[p], second[p])
                    x_j, g_i, by_j = x[m, of, b], g[m, to, b], by_x[m, of, b]
                    _slopes_of_vectors(x_j, g_i, by_j, w, by_w, n, turns, sign)
                    if tensors:
                        _slopes_of_tensors(x_j, g_i, by_j, w, by_w, n, turns)
                _add_sums(by, v, by_w, turns)
                if learn:
                    by_low, by_high = by_table[chunk, m, b, k], by_table[chunk, m, b, k + 1]
                    _add(by_low, by_high, by_w, weights[0], weights[1], weights[2], weights[3])
    return by_x, by_geometry, by_table.sum(axis=0)


@inlined
def _slopes_of_vectors(x_j, g_i, by_j, w, by_w, n, turns, sign):
    n0, n1, n2 = sign * n[0], sign * n[1], sign * n[2]
    for f in range(WIDTH):
        g0, g1, g2 = g_i[V + f], g_i[V + WIDTH + f], g_i[V + 2 * WIDTH + f]
        along, directed = n0 * g0 + n1 * g1 + n2 * g2, w[2 * WIDTH + f] * x_j[W + f]
        by_w[f] += x_j[f] * g_i[f]
        by_w[V + f] += x_j[V + f] * g0 + x_j[V + WIDTH + f] * g1 + x_j[V + 2 * WIDTH + f] * g2
        by_w[2 * WIDTH + f] += x_j[W + f] * along
        turned = sign * directed
        turns[0, f] += turned * g0
        turns[1, f] += turned * g1
        turns[2, f] += turned * g2
        by_j[f] += w[f] * g_i[f]
        by_j[V + f] += w[V + f] * g0
        by_j[V + WIDTH + f] += w[V + f] * g1
        by_j[V + 2 * WIDTH + f] += w[V + f] * g2
        by_j[W + f] += w[2 * WIDTH + f] * along


@inlined
def _slopes_of_tensors(x_j, g_i, by_j, w, by_w, n, turns):
    for f in range(WIDTH):
        g3, g4, g5 = g_i[W + f], g_i[W + WIDTH + f], g_i[W + 2 * WIDTH + f]
        g6, g7 = g_i[W + 3 * WIDTH + f], g_i[W + 4 * WIDTH + f]
        along, directed = n[3] * g3 + n[4] * g4 + n[5] * g5 + n[6] * g6 + n[7] * g7, w[3 * WIDTH + f] * x_j[T + f]
        by_w[3 * WIDTH + f] += x_j[T + f] * along
        turns[3, f] += directed * g3
        turns[4, f] += directed * g4
        turns[5, f] += directed * g5
        turns[6, f] += directed * g6
        turns[7, f] += directed * g7
        by_j[T + f] += w[3 * WIDTH + f] * along


@strict
def curvatures(x, table, spacing, first, second, distance, angles, pointer, g, u, v_distance, v_angles):
    """Derivatives by x, the table and g of what `slopes` returns, times u (as x), v_distance and v_angles."""
    members, structures, blocks, width = len(x), len(pointer) - 1, x.shape[2], table.shape[4]
    tensors = x.shape[3] > T
    by_x, by_g = np.zeros_like(x), np.zeros_like(g)
    by_table = np.zeros((CHUNKS, members, blocks, table.shape[2], 2, width), x.dtype)
    for task in prange(members * blocks * CHUNKS):
        m, block, chunk = task // (blocks * CHUNKS), task // CHUNKS % blocks, task % CHUNKS
        begin, end = pointer[structures * chunk // CHUNKS], pointer[structures * (chunk + 1) // CHUNKS]
        weights, w, v = np.empty(8, x.dtype), np.empty(width, x.dtype), np.empty(width, x.dtype)
        by_w, by_v = np.empty(width, x.dtype), np.empty(width, x.dtype)
        for p in range(begin, end):
            k = weigh(weights, distance[m, p], spacing, table.shape[2])
            if k < 0:
                continue
            a, b, c, d = weights[0], weights[1], weights[2], weights[3]
            far = v_distance[m, p]
            da, db, dc, dd = far * weights[4], far * weights[5], far * weights[6], far * weights[7]
            low, high = table[m, block, k], table[m, block, k + 1]
            _read(w, low, high, a, b, c, d)
            _read(v, low, high, da, db, dc, dd)
            for f in range(width):
                by_w[f] = by_v[f] = 0
            n, turn = angles[m, p], v_angles[m, p]
            for way in range(2):
                sign = x.dtype.type(1 - 2 * way)
                of, to = (second[p], first[p]) if way else (first[p], second[p])
                x_j, u_j, g_i = x[m, of, block], u[m, of, block], g[m, to, block]
                by_j, by_i = by_x[m, of, block], by_g[m, to, block]
                _curvatures_of_vectors(x_j, u_j, g_i, by_j, by_i, w, v, by_w, by_v, n, turn, sign)
                if tensors:
                    _curvatures_of_tensors(x_j, u_j, g_i, by_j, by_i, w, v, by_w, by_v, n, turn)
            by_low, by_high = by_table[chunk, m, block, k], by_table[chunk, m, block, k + 1]
            _add(by_low, by_high, by_w, a, b, c, d)
            _add(by_low, by_high, by_v, da, db, dc, dd)
    return by_x, by_table.sum(axis=0), by_g


@inlined
def _curvatures_of_vectors(x_j, u_j, g_i, by_j, by_i, w, v, by_w, by_v, n, turn, sign):
    n0, n1, n2 = sign * n[0], sign * n[1], sign * n[2]
    t0, t1, t2 = sign * turn[0], sign * turn[1], sign * turn[2]
    for f in range(WIDTH):
        g0, g1, g2 = g_i[V + f], g_i[V + WIDTH + f], g_i[V + 2 * WIDTH + f]
        x0, x1, x2 = x_j[V + f], x_j[V + WIDTH + f], x_j[V + 2 * WIDTH + f]
        u0, u1, u2 = u_j[V + f], u_j[V + WIDTH + f], u_j[V + 2 * WIDTH + f]
        along, across = n0 * g0 + n1 * g1 + n2 * g2, t0 * g0 + t1 * g1 + t2 * g2
        by_w[f] += u_j[f] * g_i[f]
        by_v[f] += x_j[f] * g_i[f]
        by_w[V + f] += u0 * g0 + u1 * g1 + u2 * g2
        by_v[V + f] += x0 * g0 + x1 * g1 + x2 * g2
        by_w[2 * WIDTH + f] += u_j[W + f] * along + x_j[W + f] * across
        by_v[2 * WIDTH + f] += x_j[W + f] * along
        by_j[f] += v[f] * g_i[f]
        by_j[V + f] += v[V + f] * g0
        by_j[V + WIDTH + f] += v[V + f] * g1
        by_j[V + 2 * WIDTH + f] += v[V + f] * g2
        by_j[W + f] += v[2 * WIDTH + f] * along + w[2 * WIDTH + f] * across
        directed = w[2 * WIDTH + f] * u_j[W + f] + v[2 * WIDTH + f] * x_j[W + f]
        turned = w[2 * WIDTH + f] * x_j[W + f]
        by_i[f] += w[f] * u_j[f] + v[f] * x_j[f]
        by_i[V + f] += w[V + f] * u0 + v[V + f] * x0 + n0 * directed + t0 * turned
        by_i[V + WIDTH + f] += w[V + f] * u1 + v[V + f] * x1 + n1 * directed + t1 * turned
        by_i[V + 2 * WIDTH + f] += w[V + f] * u2 + v[V + f] * x2 + n2 * directed + t2 * turned


@inlined
def _curvatures_of_tensors(x_j, u_j, g_i, by_j, by_i, w, v, by_w, by_v, n, turn):
    for f in range(WIDTH):
        along = across = n.dtype.type(0)
        for c in range(5):
            along += n[3 + c] * g_i[W + c * WIDTH + f]
            across += turn[3 + c] * g_i[W + c * WIDTH + f]
        by_w[3 * WIDTH + f] += u_j[T + f] * along + x_j[T + f] * across
        by_v[3 * WIDTH + f] += x_j[T + f] * along
        by_j[T + f] += v[3 * WIDTH + f] * along + w[3 * WIDTH + f] * across
        directed = w[3 * WIDTH + f] * u_j[T + f] + v[3 * WIDTH + f] * x_j[T + f]
        turned = w[3 * WIDTH + f] * x_j[T + f]
        for c in range(5):
            by_i[W + c * WIDTH + f] += n[3 + c] * directed + turn[3 + c] * turned
