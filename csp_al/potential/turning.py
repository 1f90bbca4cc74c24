"""Labels turned at random, for networks that have to learn what a rotation is."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from csp_al.potential.networks.member import Graph
from csp_al.structures import Floats


def rotations(count: int, rng: np.random.Generator) -> Floats:
    """Random rotations, uniform over all, (count, 3, 3)."""
    matrices: Floats = Rotation.from_quat(rng.normal(size=(count, 4))).as_matrix()
    return matrices


def turned(graph: Graph, forces: Tensor, stress: Tensor, by: Tensor) -> tuple[Graph, Tensor, Tensor]:
    """Graph, forces (N, 3) and stress (n, 3, 3) of a batch, each structure turned by its rotation (n, 3, 3)."""
    vectors = torch.einsum("eij,ej->ei", by[graph.system[graph.source]], graph.vectors)
    forces = torch.einsum("aij,aj->ai", by[graph.system], forces)
    return graph._replace(vectors=vectors), forces, by @ stress @ by.transpose(1, 2)
