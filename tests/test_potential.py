"""The ensemble is right about graphs, derivatives and symmetries, and training teaches it without leaking."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii
from ase.neighborlist import primitive_neighbor_list
from emt_aluminium import emt_labels, in_double
from hypothesis import given, settings
from hypothesis import strategies as st
from io_points import THREADS
from scipy.spatial.transform import Rotation
from torch.func import functional_call

from csp_al.files import DamagedError, OtherVersionError, read_as_written, write_sealed
from csp_al.formats import SPECIES
from csp_al.kinds import POTENTIALS, find
from csp_al.potential import ensemble as ensemble_module
from csp_al.potential import graphs
from csp_al.potential import training as training_module
from csp_al.potential.energy_zero import fit_zero, without_zero
from csp_al.potential.ensemble import Ensemble, evaluate, load_ensemble, new_ensemble
from csp_al.potential.graphs import Edges, NeighbourLists, build_graph, find_edges
from csp_al.potential.kind import NetworkPotential
from csp_al.potential.networks.member import Member, both_ways
from csp_al.potential.networks.messages import Geometry, gather, plain_gather
from csp_al.potential.networks.schnet import Pairs, convolve, plain_convolve
from csp_al.potential.repulsion import repel
from csp_al.potential.schnet import SchnetPotential
from csp_al.potential.training import STRONG, bootstrap, importance, not_extreme, steps_for, train
from csp_al.potential.turning import rotations, turned
from csp_al.structures import Labels, Prediction, Structures, concatenate

GRADIENTS = ["schnet", "painn", "so3net", "leignn"]
KINDS = [*GRADIENTS, "leignn direct", "forcenet"]
DEVICE = torch.device("cpu")
TINY = {"members": 3, "features": 8, "interactions": 2, "cutoff": 4.0, "radial": 8}
FAST = settings(max_examples=30, deadline=None)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
EVERY_GRADIENT = pytest.mark.parametrize("kind", GRADIENTS)


def section_of(kind: str = "schnet", **keywords) -> NetworkPotential:
    name, *mode = kind.split()
    return find(POTENTIALS, name).section(**({"mode": mode[0]} if mode else {}), **keywords)


def untrained(seed: int = 1, **keywords) -> Ensemble:
    return new_ensemble(section_of(**(TINY | keywords)), [seed], DEVICE)


def random_crystal(rng: np.random.Generator, symbols: str, volume_per_atom: float = 12.0) -> Atoms:
    cell = np.eye(3) + 0.3 * rng.normal(size=(3, 3))
    atoms = Atoms(symbols, cell=cell, scaled_positions=rng.random((len(Atoms(symbols)), 3)), pbc=True)
    factor = (volume_per_atom * len(atoms) / abs(atoms.cell.volume)) ** (1 / 3)
    atoms.set_cell(atoms.cell * factor, scale_atoms=True)
    if np.linalg.det(atoms.cell) < 0:
        atoms.set_cell(-atoms.cell.array, scale_atoms=True)
    return atoms


def each_member(ensemble: Ensemble, structures: Structures) -> list[np.ndarray]:
    """Energies (m, n), forces (m, N, 3) and stress (m, n, 3, 3) of the stacked pass."""
    edges = find_edges(structures, ensemble.section.cutoff)
    rows = np.arange(len(structures))
    graph = build_graph(structures, edges, rows, DEVICE, ensemble.state["energy_scale"].dtype)
    energy, forces, stress = (value.numpy() for value in evaluate(ensemble.skeleton, ensemble.state, graph)[:3])
    return [energy + ensemble.state["energy_shift"].numpy()[:, None] * structures.counts, forces, stress]


def predicted(ensemble: Ensemble, *atoms: Atoms) -> Prediction:
    return ensemble.predict(Structures.from_atoms(atoms))


def assert_same_prediction(one: Prediction, other: Prediction, tolerance: float = 1e-9) -> None:
    for name in Prediction.__dataclass_fields__:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=tolerance, rtol=1e-7, err_msg=name)


# --- neighbours


def assert_edges_are_those_of_ase(atoms: Atoms, cutoff: float) -> None:
    edges = find_edges(Structures.from_atoms([atoms]), cutoff)
    i, j, vectors = primitive_neighbor_list("ijD", [True] * 3, atoms.cell.array, atoms.positions, cutoff)

    def ordered(source, target, vectors):
        order = np.lexsort((vectors @ np.array([1.0, np.sqrt(2), np.pi]), target, source))
        return source[order], target[order], vectors[order]

    assert 2 * len(edges.source) == len(i)
    source, target = np.r_[edges.source, edges.target], np.r_[edges.target, edges.source]
    ours, theirs = ordered(source, target, np.r_[edges.vectors, -edges.vectors]), ordered(i, j, vectors)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])
    np.testing.assert_allclose(ours[2], theirs[2], atol=1e-9)


def assert_same_edges(one: Edges, other: Edges) -> None:
    np.testing.assert_array_equal(one.ptr, other.ptr)
    for a, b in zip(one.ptr[:-1], one.ptr[1:], strict=True):
        orders = [np.lexsort(np.round(each.vectors[a:b], 6).T) for each in (one, other)]
        np.testing.assert_allclose(one.vectors[a:b][orders[0]], other.vectors[a:b][orders[1]], atol=1e-9)
        np.testing.assert_array_equal(one.source[a:b][orders[0]], other.source[a:b][orders[1]])


@FAST
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 4), skew=st.integers(-4, 4), left_handed=st.booleans())
def test_edges_equal_those_of_ase_in_small_and_skewed_cells(seed, size, skew, left_handed):
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(1.4, 5.0, 3)) + 0.3 * rng.normal(size=(3, 3))
    cell += skew * np.array([[0, 0, 0], cell[0], cell[1]])
    cell = cell[[1, 0, 2]] if left_handed else cell
    atoms = Atoms(f"Al{size}", cell=cell, pbc=True, scaled_positions=rng.uniform(-1.5, 1.5, (size, 3)))
    assert_edges_are_those_of_ase(atoms, 4.0)


def test_edges_of_one_atom_in_a_cell_shorter_than_the_cutoff_are_its_images():
    atoms = Atoms("Si", cell=[1.5, 2.1, 9.0], pbc=True, positions=[[0.3, 0.2, 0.1]])
    assert_edges_are_those_of_ase(atoms, 6.0)
    edges = find_edges(Structures.from_atoms([atoms]), 6.0)
    assert len(edges.source) > 10
    assert (edges.source == 0).all()
    assert (edges.target == 0).all()


def test_edges_of_a_batch_stay_within_their_structures():
    rng = np.random.default_rng(5)
    structures = Structures.from_atoms([random_crystal(rng, symbols) for symbols in ("Al", "Al2O3", "O2")])
    edges = find_edges(structures, 4.0)
    for row in range(3):
        own = slice(edges.ptr[row], edges.ptr[row + 1])
        assert set(structures.system[edges.source[own]]) == {row}
        assert set(structures.system[edges.target[own]]) == {row}
        alone = find_edges(structures.take([row]), 4.0)
        np.testing.assert_array_equal(edges.source[own] - structures.ptr[row], alone.source)
        np.testing.assert_array_equal(edges.vectors[own], alone.vectors)


def test_lists_with_a_skin_give_the_edges_of_fresh_ones(monkeypatch):
    built = []
    build = graphs._build
    monkeypatch.setattr(graphs, "_build", lambda *a: built.append(a) or build(*a))
    kept = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        crystals = [random_crystal(rng, symbols) for symbols in ("Al", "Al2O3", "Al8")]
        structures = Structures.from_atoms(crystals)
        lists = NeighbourLists(4.0)
        lists.edges(structures)
        deformation = rng.uniform(0.87, 1.05) * np.eye(3) + 0.02 * rng.normal(size=(3, 3, 3))
        positions = np.einsum("ni,nij->nj", structures.positions, deformation[structures.system])
        positions += rng.uniform(0, 0.15) * rng.normal(size=positions.shape)
        moved = structures.moved(positions, structures.cells @ deformation)
        built.clear()
        for rows in ([0, 1, 2], [2], [2, 1]):  # found by their ids
            edges = lists.edges(moved.take(rows))
            kept += len(rows) - sum(cutoff > 4.0 for _, _, cutoff in built)
            built.clear()
            assert_same_edges(edges, find_edges(moved.take(rows), 4.0))
            built.clear()
    assert 200 < kept < 1600  # of 1800: both a list kept and one built anew were often seen


def test_structures_that_share_an_id_have_lists_of_their_own():
    rng = np.random.default_rng(7)
    crystals = [random_crystal(rng, symbols) for symbols in ("Al2", "Al2", "Al3")]
    structures = Structures.from_atoms(crystals, ids=[5, 5, 5])
    lists = NeighbourLists(4.0)
    for _ in range(2):
        assert_same_edges(lists.edges(structures), find_edges(structures, 4.0))


# --- derivatives


def crystals_with_short_distances() -> list[Atoms]:
    rng = np.random.default_rng(3)
    overlapping = Atoms(
        "AlOAl", positions=[[0, 0, 0], [0.5, 0.3, 0.1], [2.3, 2.0, 2.1]], cell=[4.1, 4.3, 3.9], pbc=True
    )
    return [random_crystal(rng, "Al"), random_crystal(rng, "Al2O"), overlapping]


def derivatives(ensemble: Ensemble, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Forces (m+1, n, 3) and stress (m+1, 3, 3) from energies alone, of every member and, last, of the mean."""
    moved, h = [], 2e-5
    for place in np.ndindex(len(atoms), 3):
        for sign in (1, -1):
            shifted = atoms.copy()
            shifted.positions[place] += sign * h
            moved.append(shifted)
    for place in np.ndindex(3, 3):
        for sign in (1, -1):
            strained, strain = atoms.copy(), np.eye(3)
            strain[place] += sign * h
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            moved.append(strained)
    structures = Structures.from_atoms(moved)
    energy = np.vstack([each_member(ensemble, structures)[0], ensemble.predict(structures).energy])
    slope = (energy[:, ::2] - energy[:, 1::2]) / (2 * h)
    forces = -slope[:, : 3 * len(atoms)].reshape(len(energy), len(atoms), 3)
    return forces, slope[:, 3 * len(atoms) :].reshape(len(energy), 3, 3) / atoms.cell.volume


@EVERY_GRADIENT
@pytest.mark.parametrize("crystal", range(3))
def test_forces_and_stress_are_the_derivatives_of_the_energy(kind, crystal):
    atoms = crystals_with_short_distances()[crystal]
    ensemble = in_double(untrained(kind=kind))
    forces, stress = derivatives(ensemble, atoms)
    prediction = predicted(ensemble, atoms)
    _, of_members, stress_of_members = each_member(ensemble, Structures.from_atoms([atoms]))
    scale = max(1.0, np.abs(forces).max())
    np.testing.assert_allclose(of_members, forces[:-1], atol=1e-6 * scale)
    np.testing.assert_allclose(prediction.forces, forces[-1], atol=1e-6 * scale)
    np.testing.assert_allclose(stress_of_members[:, 0], stress[:-1], atol=1e-6 * scale)
    np.testing.assert_allclose(prediction.stress[0], stress[-1], atol=1e-6 * scale)


def test_the_overlapping_crystal_of_the_derivative_test_feels_the_repulsion():
    atoms = crystals_with_short_distances()[2]
    assert np.abs(predicted(untrained(), atoms).forces).max() > 50


# --- members


def alone_through_schnetpack(ensemble: Ensemble, member: int, atoms: Atoms) -> dict[str, np.ndarray]:
    """One member of an ensemble for Al, as a model of schnetpack: its distances, ZBL, forces and strain."""
    import schnetpack as spk
    from schnetpack import properties as keys

    module = Member(ensemble.section).double()
    # constants such as Clebsch-Gordan coefficients are in the stacked state but in no state_dict of schnetpack
    keys_left = module.load_state_dict({name: value[member] for name, value in ensemble.state.items()}, strict=False)
    assert not keys_left.missing_keys
    theirs = {"schnet": "SchNet", "painn": "PaiNN", "so3net": "SO3net"}[ensemble.section.kind]
    representation = getattr(spk.representation, theirs)(
        n_atom_basis=ensemble.section.features,
        n_interactions=ensemble.section.interactions,
        radial_basis=spk.nn.GaussianRBF(ensemble.section.radial, ensemble.section.cutoff),
        cutoff_fn=spk.nn.CosineCutoff(ensemble.section.cutoff),
        **({"lmax": 2} if theirs == "SO3net" else {}),
    ).double()
    assert not representation.load_state_dict(module.representation.state_dict(), strict=False).missing_keys
    energy = spk.atomistic.Atomwise(n_in=ensemble.section.features, output_key="energy").double()
    energy.load_state_dict(module.energy.state_dict())
    zbl = spk.atomistic.ZBLRepulsionEnergy(
        "eV", "Ang", "zbl", trainable=False, cutoff_fn=spk.nn.CosineCutoff(0.9 * 2 * covalent_radii[13])
    ).double()
    model = spk.model.NeuralNetworkPotential(
        representation=representation,
        input_modules=[spk.atomistic.Strain(), spk.atomistic.PairwiseDistances()],
        output_modules=[
            energy,
            zbl,
            spk.atomistic.Aggregation(["energy", "zbl"], output_key="total"),
            spk.atomistic.Forces(calc_stress=True, energy_key="total"),
        ],
    )
    i, j, offsets = primitive_neighbor_list("ijS", [True] * 3, atoms.cell.array, atoms.positions, 4.0)
    results = model(
        {
            keys.Z: torch.tensor(atoms.numbers),
            keys.R: torch.tensor(atoms.positions),
            keys.cell: torch.tensor(atoms.cell.array)[None],
            keys.idx_m: torch.zeros(len(atoms), dtype=torch.long),
            keys.n_atoms: torch.tensor([len(atoms)]),
            keys.idx_i: torch.tensor(i),
            keys.idx_j: torch.tensor(j),
            keys.offsets: torch.tensor(offsets @ atoms.cell.array),
        }
    )
    return {name: results[name].detach().numpy() for name in ("total", "forces", "stress")}


@pytest.mark.parametrize("kind", ["schnet", "painn", "so3net"])
def test_every_member_of_the_stacked_pass_equals_schnetpack_evaluated_alone(kind):
    atoms = random_crystal(np.random.default_rng(4), "Al4", volume_per_atom=9)
    ensemble = in_double(untrained(kind=kind))
    energy, forces, stress = each_member(ensemble, Structures.from_atoms([atoms]))
    for member in range(3):
        alone = alone_through_schnetpack(ensemble, member, atoms)
        np.testing.assert_allclose(energy[member], alone["total"], rtol=1e-6)
        np.testing.assert_allclose(forces[member], alone["forces"], rtol=1e-5, atol=1e-6)
        largest = np.abs(alone["stress"]).max()
        np.testing.assert_allclose(stress[member, 0], alone["stress"][0], rtol=1e-5, atol=1e-6 * largest)


def convolution_inputs(
    *shape: int, features: int = 6, dtype: torch.dtype = torch.float64
) -> tuple[list[torch.Tensor], Pairs]:
    """Features, table and distances, leaves, of three structures: the second without pairs, the first with images."""
    generator = torch.Generator().manual_seed(1)
    sizes = ((7, features), (11, 2, features), (9,))  # atoms, knots, pairs; some distances lie beyond the last knot
    tensors = [torch.rand(*shape, *size, generator=generator, dtype=dtype) for size in sizes]
    tensors[2] *= 2.4
    first, second = torch.tensor([0, 0, 1, 1, 2, 4, 5, 5, 6]), torch.tensor([0, 1, 2, 1, 0, 5, 6, 4, 6])
    return [tensor.requires_grad_() for tensor in tensors], Pairs(first, second, torch.tensor([0, 5, 5, 9]))


def first_and_second_derivatives(convolution, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Of a loss of the result and of its slopes by features and distances, as training has it."""
    x, _, distance = tensors
    y = convolution(*tensors)
    slopes = torch.autograd.grad((y**2).sum(), [x, distance], create_graph=True)
    loss = y.sin().sum() + sum((slope**3).sum() for slope in slopes)
    return [y, *slopes, *torch.autograd.grad(loss, tensors[:2])]


@pytest.mark.parametrize("members", [(), (3,)])
@pytest.mark.parametrize(("features", "dtype"), [(6, torch.float64), (64, torch.float64), (64, torch.float32)])
def test_the_compiled_convolution_and_its_derivatives_equal_plain_operations(members, features, dtype):
    tensors, pairs = convolution_inputs(*members, features=features, dtype=dtype)
    results = []
    for convolution in (convolve, plain_convolve):

        def one(x, table, distance, convolution=convolution):
            return convolution(x, table, 0.2, distance, pairs)

        results.append(first_and_second_derivatives(torch.vmap(one) if members else one, tensors))
    for ours, plain in zip(*results, strict=True):
        assert ours.abs().sum() > 0
        single = dtype == torch.float32
        torch.testing.assert_close(
            ours, plain, rtol=1e-4 if single else 1e-7, atol=2e-5 * float(plain.abs().max()) if single else 1e-9
        )


def messages_inputs(*shape: int, rank: int, features: int) -> tuple[list[torch.Tensor], Pairs]:
    """What atoms give, table, distances and angles, leaves; pairs as in `convolution_inputs`."""
    (_, _, distance), pairs = convolution_inputs(*shape)
    generator = torch.Generator().manual_seed(2)
    sizes = ((7, 4 + rank, features), (11, 2, 2 + rank, features), (9, 8))
    x, table, angles = (torch.rand(*shape, *size, generator=generator, dtype=torch.float64) for size in sizes)
    return [tensor.detach().requires_grad_() for tensor in (x, table, distance, angles)], pairs


def derivatives_of_messages(messages, tensors: list[torch.Tensor], pairs: Pairs) -> list[torch.Tensor]:
    """As `first_and_second_derivatives`, of compiled or plain messages, of one member or of several."""

    def one(x, table, *geometry):
        given = x.split([1, 3, x.shape[1] - 4], dim=1) if messages is gather else x
        received = messages(given, table, 0.2, Geometry(*geometry), pairs)
        return torch.cat(received, dim=1) if messages is gather else received

    y = (torch.vmap(one) if tensors[0].ndim == 4 else one)(*tensors)
    slopes = torch.autograd.grad((y**2).sum(), [tensors[0], *tensors[2:]], create_graph=True)
    loss = y.sin().sum() + sum((slope**3).sum() for slope in slopes)
    return [y, *slopes, *torch.autograd.grad(loss, tensors[:2])]


@pytest.mark.parametrize("members", [(), (3,)])
@pytest.mark.parametrize(("rank", "features"), [(1, 6), (2, 20)])
def test_compiled_messages_and_their_derivatives_equal_plain_operations(members, rank, features):
    tensors, pairs = messages_inputs(*members, rank=rank, features=features)
    results = [derivatives_of_messages(messages, tensors, pairs) for messages in (gather, plain_gather)]
    for ours, expected in zip(*results, strict=True):
        assert ours.abs().sum() > 0
        torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)


def bytes_of_derivatives() -> str:
    tensors, pairs = convolution_inputs(3, features=64)

    def one(x, table, distance):
        return convolve(x, table, 0.2, distance, pairs)

    results = first_and_second_derivatives(torch.vmap(one), tensors)
    results += derivatives_of_messages(gather, *messages_inputs(3, rank=2, features=64))
    return "".join(result.detach().numpy().tobytes().hex() for result in results)


@pytest.mark.long
def test_compiled_convolutions_and_messages_give_the_same_bits_on_two_threads_and_when_just_compiled(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", "import test_potential; print(test_potential.bytes_of_derivatives())"],
        cwd=Path(__file__).parent,
        env=os.environ | dict.fromkeys(THREADS, "2") | {"NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.strip() == bytes_of_derivatives()


def test_second_derivatives_by_distance_which_the_compiled_convolution_lacks_are_not_numbers():
    tensors, pairs = convolution_inputs()
    energy = convolve(*tensors[:2], 0.2, tensors[2], pairs).square().sum()
    (slope,) = torch.autograd.grad(energy, tensors[2], create_graph=True)
    assert torch.autograd.grad(slope.sum(), tensors[2])[0].isnan().all()


def test_tabulated_filters_are_those_of_the_networks():
    representation = Member(SchnetPotential()).representation.double()
    for interaction in representation.interactions:
        torch.nn.init.normal_(interaction.filter_network[0].weight)  # larger than training makes them
    distance = torch.linspace(0.3, 6.2, 5000, dtype=torch.float64)
    pairs = Pairs(torch.zeros(5000, dtype=torch.long), torch.arange(1, 5001), torch.tensor([0, 5000]))
    x = torch.ones(5001, 64, dtype=torch.float64)
    tables = representation.tabulate()
    for table, interaction in zip(tables, representation.interactions, strict=True):
        read = plain_convolve(x, table, 6.0 / (len(table) - 1), distance, pairs)[1:]
        exact = interaction.filter_network(representation.radial_basis(distance))
        exact = exact * representation.cutoff_fn(distance)[:, None]
        torch.testing.assert_close(read, exact, rtol=0, atol=1e-5 * float(exact.abs().max()))


def test_predictions_are_those_of_the_pass_that_training_sees():
    ensemble = in_double(untrained(kind="schnet"))
    structures = Structures.from_atoms([random_crystal(np.random.default_rng(2), "Al2O3")])
    energy, forces, _ = each_member(ensemble, structures)
    prediction = ensemble.predict(structures)
    np.testing.assert_allclose(prediction.energy, energy.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(prediction.forces, forces.mean(axis=0), atol=1e-12)


@EVERY_KIND
def test_every_tensor_follows_the_device(kind, monkeypatch):
    """On the device "meta", which has shapes and no numbers, and like a GPU refuses most meetings with the CPU."""
    meta = torch.device("meta")
    structures = Structures.from_atoms([bulk("Al"), bulk("Al", cubic=True)])
    edges, rows = find_edges(structures, 4.0), np.arange(2)
    graph = build_graph(structures, edges, rows, meta)
    assert {each.device for each in graph} == {meta}
    # which pairs repel each other is a matter of numbers
    none = torch.zeros(2, device=meta), torch.zeros(len(edges.source), 3, device=meta)
    monkeypatch.setattr("csp_al.potential.ensemble.repel", lambda *_: none)
    ensemble = new_ensemble(section_of(**(TINY | {"kind": kind})), [1], meta)
    weights = [ensemble.state[name].requires_grad_() for name in ensemble.learned]
    for state, differentiable in ((ensemble._fixed, False), (ensemble.state, True)):
        results = evaluate(ensemble.skeleton, state, graph, differentiable=differentiable)
        assert [tuple(each.shape) for each in results] == [(3, 2), (3, 5, 3), (3, 2, 3, 3), (3, 5, 8)]
        assert {each.device for each in results} == {meta}
    gradients = torch.autograd.grad(sum(each.square().sum() for each in results[:3]), weights, allow_unused=True)
    assert {each.device for each in gradients if each is not None} == {meta}
    elsewhere = build_graph(structures, edges, rows, DEVICE)
    for name in ("system", "source", "target", "volumes", "vectors"):
        with pytest.raises(RuntimeError):
            evaluate(ensemble.skeleton, ensemble.state, graph._replace(**{name: getattr(elsewhere, name)}))


@EVERY_GRADIENT
def test_mean_and_spread_are_those_of_a_loop_over_members(kind):
    rng = np.random.default_rng(6)
    structures = Structures.from_atoms([random_crystal(rng, symbols) for symbols in ("Al3", "OAl", "O")])
    ensemble = in_double(untrained(kind=kind))
    ensemble.state["energy_shift"] += torch.tensor([-3.0, -3.1, -2.9])
    ensemble.state["energy_scale"] *= torch.tensor([0.5, 2.0, 1.0])
    graph = build_graph(structures, find_edges(structures, 4.0), np.arange(3), DEVICE, torch.float64)
    repulsion, steepness = repel(graph, 4.0)
    energies, forces, pooled = [], [], []
    for member in range(3):
        weights = {name: value[member] for name, value in ensemble.state.items()}
        vectors = graph.vectors.clone().requires_grad_()
        energy, features = functional_call(ensemble.skeleton, weights, (vectors, graph))
        slope = torch.autograd.grad(energy.sum(), vectors)[0] + steepness
        force = np.zeros((len(graph.numbers), 3))
        np.add.at(force, graph.source.numpy(), slope.numpy())
        np.subtract.at(force, graph.target.numpy(), slope.numpy())
        energies.append((energy.detach() + repulsion).numpy() + weights["energy_shift"].numpy() * structures.counts)
        forces.append(force)
        pooled.append([features.detach().numpy()[a:b].mean(axis=0) for a, b in zip([0, 3, 5], [3, 5, 6], strict=True)])
    prediction = ensemble.predict(structures)
    np.testing.assert_allclose(prediction.energy, np.mean(energies, axis=0))
    np.testing.assert_allclose(prediction.energy_sigma, np.std(energies, axis=0, ddof=1))
    np.testing.assert_allclose(prediction.forces, np.mean(forces, axis=0), atol=1e-10)
    sigma = np.sqrt(np.var(forces, axis=0, ddof=1).sum(axis=1))
    np.testing.assert_allclose(prediction.forces_sigma, sigma, atol=1e-10)
    np.testing.assert_allclose(prediction.features, np.concatenate(pooled, axis=1), atol=1e-12)


# --- symmetries


@EVERY_KIND
def test_energy_is_extensive_and_forces_repeat(kind):
    atoms = random_crystal(np.random.default_rng(7), "Al2O")
    one, eight = (predicted(in_double(untrained(kind=kind)), each) for each in (atoms, atoms.repeat(2)))
    np.testing.assert_allclose(eight.energy, 8 * one.energy)
    np.testing.assert_allclose(eight.energy_sigma, 8 * one.energy_sigma)
    np.testing.assert_allclose(eight.forces, np.tile(one.forces, (8, 1)), atol=1e-9)
    np.testing.assert_allclose(eight.stress, one.stress, atol=1e-9)
    np.testing.assert_allclose(eight.features, one.features, atol=1e-9)


@pytest.mark.parametrize("global_node", [True, False])
def test_fragments_that_no_edge_joins_feel_each_other_by_the_global_node_alone(global_node):
    """What the node costs: the energies of two halves add up no longer, as soon as the halves differ."""
    ensemble = in_double(untrained(kind="leignn", global_node=global_node))
    left, right = pair("Al2", 2.5), pair("Al2", 3.0)
    right.positions += 6
    both = left + right
    alone = predicted(ensemble, left, right).energy.sum()
    together = predicted(ensemble, both)
    assert bool(abs(together.energy[0] - alone) > 1e-6) is global_node
    assert bool(abs(predicted(ensemble, left).forces[0, 0] - together.forces[0, 0]) > 1e-8) is global_node


@pytest.mark.parametrize("rank", [1, 2])
def test_vectors_take_a_tetrahedron_for_a_square_and_tensors_do_not(rank):
    ensemble = in_double(untrained(kind="leignn", rank=rank, cutoff=3.0))
    square = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    tetrahedron = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    positions = [10 + np.vstack([np.zeros(3), 2.4 * corners]) for corners in (square, tetrahedron)]
    energies = predicted(ensemble, *(Atoms("Si5", each, cell=[20] * 3, pbc=True) for each in positions)).energy
    assert bool(abs(energies[0] - energies[1]) < 1e-9) is (rank == 1)


def test_leignn_has_no_forces_where_symmetry_has_none_and_no_jump_at_its_cutoff():
    ensemble = untrained(kind="leignn")
    assert np.abs(predicted(ensemble, bulk("Si", cubic=True)).forces).max() < 1e-5
    near, far = predicted(in_double(untrained(kind="leignn")), pair("Si2", 4 - 1e-6), pair("Si2", 4 + 1e-6)).energy
    assert abs(near - far) < 1e-12


def test_heads_of_forces_and_stress_follow_the_crystal_and_know_no_energy():
    """Their derivatives of the energy are others, and a perfect crystal has neither forces nor shear."""
    atoms = random_crystal(np.random.default_rng(3), "Al2O")
    ensemble = in_double(untrained(kind="leignn direct"))
    slopes, _ = derivatives(ensemble, atoms)
    assert np.abs(predicted(ensemble, atoms).forces - slopes[-1]).max() > 0.01
    perfect = predicted(ensemble, bulk("Si", cubic=True))
    assert np.abs(perfect.forces).max() < 1e-9
    np.testing.assert_allclose(perfect.stress[0], np.trace(perfect.stress[0]) / 3 * np.eye(3), atol=1e-9)
    assert abs(perfect.stress[0, 0, 0]) > 1e-4


@EVERY_KIND
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_predictions_follow_rotation_permutation_translation_and_choice_of_cell(kind, seed):
    rng = np.random.default_rng(seed)
    ensemble, atoms = in_double(untrained(kind=kind)), random_crystal(rng, "Al2O2")
    before = predicted(ensemble, atoms)

    turn = Rotation.from_quat(rng.normal(size=4)).as_matrix()
    turned = Atoms(atoms.numbers, positions=atoms.positions @ turn.T, cell=atoms.cell.array @ turn.T, pbc=True)
    expected = replace(before, forces=before.forces @ turn.T, stress=turn @ before.stress @ turn.T)
    if ensemble.gives.equivariant:
        assert_same_prediction(predicted(ensemble, turned), expected, 1e-7)
    else:
        assert np.abs(predicted(ensemble, turned).forces - expected.forces).max() > 1e-4

    order = rng.permutation(len(atoms))
    permuted = replace(before, forces=before.forces[order], forces_sigma=before.forces_sigma[order])
    assert_same_prediction(predicted(ensemble, atoms[order]), permuted)

    shifted = atoms.copy()
    shifted.positions += rng.normal(size=3) + rng.integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
    assert_same_prediction(predicted(ensemble, shifted), before)

    other_cell = atoms.copy()
    other_cell.set_cell(np.array([[1, 2, 0], [0, 1, -1], [0, 0, 1]]) @ atoms.cell.array, scale_atoms=False)
    assert_same_prediction(predicted(ensemble, other_cell), before)


@EVERY_KIND
def test_batching_changes_no_prediction(kind, monkeypatch):
    rng = np.random.default_rng(8)
    structures = Structures.from_atoms([random_crystal(rng, s) for s in ("Al", "OAl", "Al2O3", "O", "Al4")])
    ensemble = in_double(untrained(kind=kind))
    together = ensemble.predict(structures)
    monkeypatch.setattr(ensemble_module, "MEMORY", 1)
    passes = []
    monkeypatch.setattr(ensemble_module, "evaluate", lambda *a: passes.append(1) or evaluate(*a))
    assert_same_prediction(ensemble.predict(structures), together)
    assert len(passes) == len(structures)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        MemoryError(),
    ],
)
def test_batches_that_do_not_fit_into_memory_are_halved(error, monkeypatch):
    rng = np.random.default_rng(8)
    structures = Structures.from_atoms([random_crystal(rng, s) for s in ("Al", "OAl", "Al2O3", "O", "Al4")])
    ensemble = in_double(untrained())
    together = ensemble.predict(structures)
    sizes = []

    def small_memory(skeleton, state, graph):
        sizes.append(len(graph.counts))
        if len(graph.counts) > 2:
            raise error
        return evaluate(skeleton, state, graph)

    monkeypatch.setattr(ensemble_module, "evaluate", small_memory)
    assert_same_prediction(ensemble.predict(structures), together)
    assert sizes == [5, 3, 2, 1, 2]
    monkeypatch.setattr(ensemble_module, "evaluate", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(type(error), match=re.escape(str(error))):
        ensemble.predict(structures)


def test_other_errors_of_a_pass_are_not_taken_for_a_lack_of_memory(monkeypatch):
    structures = Structures.from_atoms([bulk("Al"), bulk("Al")])
    monkeypatch.setattr(ensemble_module, "evaluate", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        untrained().predict(structures)


@pytest.mark.parametrize("kind", ["schnet", "leignn"])
def test_isolated_atoms_and_empty_batches_are_predicted(kind):
    ensemble = untrained(kind=kind)
    lonely = predicted(ensemble, Atoms("Al", cell=[9, 9, 9], pbc=True))
    assert np.isfinite(lonely.energy).all()
    assert not lonely.forces.any()
    nothing = predicted(ensemble)
    assert_same_prediction(concatenate([nothing, lonely]), lonely)


# --- repulsion


def pair(symbols: str, distance: float) -> Atoms:
    return Atoms(symbols, positions=[[0, 0, 0], [distance, 0, 0]], cell=[12, 12, 12], pbc=True)


@EVERY_KIND
@pytest.mark.parametrize("symbols", ["Al2", "OAl", "Si2", "NaCl"])
def test_untrained_ensembles_repel_overlapping_atoms(kind, symbols):
    numbers = Atoms(symbols).numbers
    bond = covalent_radii[numbers].sum()
    ensemble = untrained(kind=kind)
    prediction = predicted(ensemble, *(pair(symbols, share * bond) for share in (0.1, 0.2, 0.3, 0.4, 0.5, 1.0)))
    assert (np.diff(prediction.energy) < 0)[:-1].all()
    assert prediction.energy[4] > prediction.energy[5] + 5
    assert (prediction.forces[0:10:2, 0] < -1).all()
    assert (prediction.forces[1:10:2, 0] > 1).all()


def repulsion_energy(atoms: Atoms) -> float:
    structures = Structures.from_atoms([atoms])
    graph = build_graph(structures, find_edges(structures, 4.0), np.arange(1), DEVICE, torch.float64)
    return float(repel(graph, 4.0)[0])


def test_the_repulsion_is_schnetpacks_zbl_in_an_element():
    import schnetpack as spk
    from schnetpack import properties as keys

    cutoff = spk.nn.CosineCutoff(0.9 * 2 * covalent_radii[14])
    zbl = spk.atomistic.ZBLRepulsionEnergy("eV", "Ang", "zbl", trainable=False, cutoff_fn=cutoff).double()
    for volume in (2.0, 6.0, 12.0):
        structures = Structures.from_atoms([random_crystal(np.random.default_rng(9), "Si3", volume)])
        graph = build_graph(structures, find_edges(structures, 4.0), np.arange(1), DEVICE, torch.float64)
        source, target, vectors = both_ways(graph, graph.vectors)
        inputs = {keys.Z: graph.numbers, keys.Rij: vectors, keys.idx_m: graph.system}
        expected = zbl(inputs | {keys.idx_i: source, keys.idx_j: target})["zbl"]
        assert repulsion_energy(structures.to_atoms()[0]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("symbols", "bond"), [("Si2", 2.35), ("C2", 1.42), ("OAl", 1.85), ("NaCl", 2.82), ("GaAs", 2.45), ("Al2", 2.86)]
)
def test_the_repulsion_is_zero_at_bond_lengths(symbols, bond):
    assert repulsion_energy(pair(symbols, bond)) == 0
    assert repulsion_energy(pair(symbols, 0.5 * bond)) > 1


# --- files


@EVERY_KIND
def test_saved_ensembles_predict_the_same(kind, tmp_path):
    ensemble = untrained(kind=kind)
    ensemble.save(tmp_path)
    atoms = random_crystal(np.random.default_rng(1), "Al2O3")
    restored = load_ensemble(tmp_path, ensemble.section, DEVICE)
    assert_same_prediction(predicted(restored, atoms), predicted(ensemble, atoms), 0)
    assert restored.section == ensemble.section
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert all(type(value) is torch.Tensor for value in weights.values())


def test_weights_of_another_format_are_refused(tmp_path):
    ensemble = untrained()
    ensemble.save(tmp_path)
    write_sealed(tmp_path / "potential.json", "weights", {"format": 999, "potential": {}})
    with pytest.raises(OtherVersionError, match=r"format 999, this version of csp_al reads \d"):
        load_ensemble(tmp_path, ensemble.section, DEVICE)


def test_weights_that_lack_a_tensor_are_refused(tmp_path):
    ensemble = untrained()
    del ensemble.state["representation.interactions.0.in2f.weight"]
    ensemble.save(tmp_path)
    with pytest.raises(DamagedError, match=r"not those of schnet: representation.interactions.0.in2f.weight"):
        load_ensemble(tmp_path, ensemble.section, DEVICE)


# --- training


def beginner(seed: int = 1, **keywords) -> Ensemble:
    defaults = {"features": 16, "cutoff": 5.0, "radial": 12, "batch_size": 8, "steps": 12}
    return untrained(seed=seed, **(defaults | keywords))


def validation(curve, epoch: int) -> np.ndarray:
    return curve[curve["epoch"] == epoch].sort_values("member")["validation"].to_numpy()


def losses_by_hand(ensemble: Ensemble, labels: Labels) -> np.ndarray:
    """Loss of each label for each member, from its predictions, one structure after the other."""
    section = ensemble.section
    energy, forces, stress = each_member(ensemble, labels.structures)
    ptr, losses = labels.structures.ptr, np.zeros_like(energy)
    for member, row in np.ndindex(energy.shape):
        atoms = slice(ptr[row], ptr[row + 1])
        size = ptr[row + 1] - ptr[row]
        losses[member, row] = (
            section.energy_weight * ((energy[member, row] - labels.energy[row]) / size) ** 2
            + section.force_weight * np.mean((forces[member, atoms] - labels.forces[atoms]) ** 2)
            + section.stress_weight * np.mean((stress[member, row] - labels.stress[row]) ** 2)
        )
    return losses


@pytest.mark.parametrize(
    "kind",
    [
        "schnet",
        "painn",
        *(pytest.param(k, marks=pytest.mark.long) for k in ("so3net", "leignn", "leignn direct")),
    ],
)
def test_training_learns_a_classical_potential(kind):
    assert_learnt(beginner(kind=kind, steps=200, learning_rate=5e-3), emt_labels(60))


@pytest.mark.long
def test_training_teaches_forcenet_what_a_rotation_is():
    patient = beginner(kind="forcenet", features=64, radial=50, steps=1500, learning_rate=1e-3)
    assert_learnt(patient, emt_labels(100))


def assert_learnt(ensemble: Ensemble, labels: Labels) -> None:
    """Training brings the errors of energies, forces and stresses far below those of who predicts the same for all."""
    unseen = emt_labels(30, seed=99)
    trained = train(ensemble, labels, [1, 0])
    start, best = validation(trained.curve, 1), trained.curve.groupby("member")["validation"].min().to_numpy()
    assert (best < 0.2 * start).all()

    prediction = trained.ensemble.predict(unseen.structures)
    counts = unseen.structures.counts
    per_atom, truth = prediction.energy / counts, unseen.energy / counts
    constant = np.median(labels.energy / labels.structures.counts)
    assert np.mean((per_atom - truth) ** 2) < 0.3 * np.mean((constant - truth) ** 2)
    assert np.mean((prediction.forces - unseen.forces) ** 2) < 0.3 * np.mean(unseen.forces**2)
    assert np.mean((prediction.stress - unseen.stress) ** 2) < 0.3 * np.mean(unseen.stress**2)


@pytest.fixture(scope="module")
def briefly_trained():
    return train(beginner(steps=45, learning_rate=5e-3), emt_labels(24), [1, 0])


def test_the_kept_weights_are_those_of_each_members_best_epoch(monkeypatch):
    after: list[dict[str, torch.Tensor]] = []
    real = training_module._epoch

    def watched(ensemble, state, *others):
        losses = real(ensemble, state, *others)
        after.append({name: value.detach().clone() for name, value in state.items()})
        return losses

    monkeypatch.setattr(training_module, "_epoch", watched)
    trained = train(beginner(steps=90, learning_rate=0.05), emt_labels(24), [1, 0])
    best = trained.curve.pivot_table(index="epoch", columns="member", values="validation").to_numpy().argmin(axis=0)
    assert (best < len(after) - 1).any()
    for member, epoch in enumerate(best):
        for name, kept in trained.ensemble.state.items():
            assert torch.equal(kept[member], after[epoch][name][member])


def test_the_losses_are_a_geometric_mean_over_labels_held_out_and_a_weighted_one_over_the_others():
    labels = emt_labels(24)
    trained = train(beginner(learning_rate=1e-9), labels, [1, 0])  # the weights stay where they began
    kept = labels.take(not_extreme(labels))
    draws = bootstrap(labels.structures.ids, 3, 1)[:, not_extreme(labels)]
    losses = losses_by_hand(trained.ensemble, kept)
    validated = [np.exp(np.log(loss[draw == 0]).mean()) for loss, draw in zip(losses, draws, strict=True)]
    np.testing.assert_allclose(validation(trained.curve, 1), validated, rtol=1e-3)
    trained_on = [np.average(loss, weights=draw * importance(kept)) for loss, draw in zip(losses, draws, strict=True)]
    first = trained.curve[trained.curve["epoch"] == 1].sort_values("member")["training"]
    np.testing.assert_allclose(first, trained_on, rtol=1e-3)


def test_labels_are_turned_as_predictions_turn_that_follow_the_crystal():
    rng = np.random.default_rng(2)
    structures = Structures.from_atoms([random_crystal(rng, "Al2O"), random_crystal(rng, "OAl")])
    ensemble = in_double(untrained())
    graph = build_graph(structures, find_edges(structures, 4.0), np.arange(2), DEVICE, torch.float64)
    by = rotations(2, rng)
    np.testing.assert_allclose(np.linalg.det(by), 1)
    _, forces, stress, _ = evaluate(ensemble.skeleton, ensemble.state, graph)
    moved, *expected = turned(graph, forces[0], stress[0], torch.from_numpy(by))
    found = evaluate(ensemble.skeleton, ensemble.state, moved)[1:3]
    for each, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(each[0], truth)
        assert (each[0] - truth.roll(1, dims=0)).abs().max() > 1e-3


@pytest.mark.parametrize(("kind", "batches"), [("schnet", 0), ("forcenet", 3)])
def test_labels_are_turned_for_networks_that_do_not_follow_the_crystal_alone(kind, batches, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(training_module, "rotations", lambda *given: asked.append(given[0]) or rotations(*given))
    train(beginner(kind=kind, steps=1), emt_labels(24), [1, 0])
    assert len(asked) == batches


def test_the_learning_curve_has_a_row_for_each_epoch_and_member(briefly_trained):
    pairs = list(zip(briefly_trained.curve["epoch"], briefly_trained.curve["member"], strict=True))
    assert pairs == [(epoch, member) for epoch in range(1, 16) for member in range(3)]
    assert np.isfinite(briefly_trained.curve[["training", "validation"]].to_numpy()).all()


def test_a_warm_start_begins_lower_than_a_cold_one(briefly_trained):
    labels = concatenate([emt_labels(24), emt_labels(24, seed=2, ids=list(range(100, 124)))])
    section = beginner(steps=1, learning_rate=1e-6).section
    warm = train(replace(briefly_trained.ensemble, section=section), labels, [1, 1])
    cold = train(replace(beginner(), section=section), labels, [1, 1])
    assert (validation(warm.curve, 1) < 0.7 * validation(cold.curve, 1)).all()


def test_training_again_does_not_change_the_ensemble_that_it_began_with(briefly_trained):
    before = {name: value.clone() for name, value in briefly_trained.ensemble.state.items()}
    train(briefly_trained.ensemble, emt_labels(24), [1, 1])
    assert all(torch.equal(value, before[name]) for name, value in briefly_trained.ensemble.state.items())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    labels = emt_labels(12)

    def weights(first: int, then: list[int]) -> torch.Tensor:
        state = train(beginner(seed=first, steps=4), labels, then).ensemble.state
        return torch.cat([value.double().flatten() for value in state.values()])

    reference = weights(1, [1, 0])
    assert torch.equal(weights(1, [1, 0]), reference)
    for other in (weights(2, [1, 0]), weights(1, [1, 1]), weights(1, [2, 0])):
        assert not torch.equal(other, reference)


@EVERY_KIND
def test_members_trained_together_learn_as_each_would_alone(kind, monkeypatch):
    together, labels = beginner(kind=kind, members=3, steps=24), emt_labels(12)
    curve = train(together, labels, [1, 0]).curve
    draws = bootstrap(labels.structures.ids, 3, 1)
    for member in range(3):
        section = together.section.model_copy(update={"members": 1})
        state = {name: value[[member]] for name, value in together.state.items()}
        monkeypatch.setattr(training_module, "bootstrap", lambda *_, member=member: draws[[member]])
        alone = train(replace(together, section=section, state=state), labels, [1, 0]).curve
        shared = curve[curve["member"] == member]
        np.testing.assert_allclose(alone["training"], shared["training"], rtol=1e-3)
        np.testing.assert_allclose(alone["validation"], shared["validation"], rtol=1e-3)


def test_members_differ_by_initial_weights_and_by_bootstrap():
    state = beginner().state
    differing = [name for name, value in state.items() if not torch.equal(value[0], value[1])]
    assert any("representation" in name for name in differing)
    assert any("energy.outnet" in name for name in differing)
    weights = bootstrap(np.arange(40), 5, 1)
    assert len({tuple(row) for row in weights}) == 5
    assert len({tuple(row == 0) for row in weights}) == 5


def test_the_more_labels_the_more_steps_up_to_the_most_of_the_section():
    section = beginner(steps=300, steps_per_label=5).section
    assert [steps_for(labels, section) for labels in (2, 20, 39, 40, 41, 1000)] == [110, 200, 295, 300, 300, 300]
    assert steps_for(10, section.model_copy(update={"steps": 30})) == 30


def test_training_takes_the_steps_that_its_labels_ask_for():
    ensemble = beginner(steps=1000, steps_per_label=0.5, members=2, features=4)
    labels = emt_labels(24, seed=3, ids=[*range(23), 0])
    curve = train(ensemble, with_force(labels, 23, 500.0), [1, 0]).curve  # one extreme label is left out
    assert curve["epoch"].max() == -(-steps_for(23, ensemble.section) // 3)


@pytest.mark.parametrize("steps", [1, 4, 5, 9, 10, 19, 20])
def test_training_may_take_as_few_steps_as_one_likes(steps):
    ensemble = beginner(steps=steps, members=2, features=4, batch_size=24)
    curve = train(ensemble, emt_labels(24), [1, 0]).curve
    assert curve["epoch"].max() == steps
    assert np.isfinite(curve["training"]).all()


def test_early_stopping_ends_when_no_member_has_improved_for_its_patience():
    ensemble = beginner(steps=120, patience=6, learning_rate=0.05)  # two steps make an epoch
    curve = train(ensemble, emt_labels(12), [1, 0]).curve
    table = curve.pivot_table(index="epoch", columns="member", values="validation").to_numpy()
    last = len(table) - 1
    assert last < 60

    def idle(epoch: int) -> np.ndarray:
        return epoch - table[: epoch + 1].argmin(axis=0)

    assert (idle(last) >= 3).all()
    assert all((idle(epoch) < 3).any() for epoch in range(last))


def with_force(labels: Labels, row: int, force: float) -> Labels:
    forces = labels.forces.copy()
    forces[labels.structures.ptr[row]] = force
    return replace(labels, forces=forces)


def test_a_label_counts_less_the_larger_its_forces_and_its_stress_are_beside_those_of_the_others():
    labels = emt_labels(5)
    sizes = np.array([0.0, 0.5, 2.0, 10.0, 100.0])  # the third is the median
    along_x = np.repeat(sizes, labels.structures.counts)[:, None] * [1.0, 0.0, 0.0]
    pushed = replace(labels, forces=along_x, stress=np.zeros((5, 3, 3)))
    expected = 1 / (1 + (sizes / (STRONG * 2)) ** 2)
    np.testing.assert_allclose(importance(pushed), expected)
    per_volume = sizes * labels.structures.counts / labels.structures.volumes
    squeezed = replace(pushed, forces=0 * along_x, stress=per_volume[:, None, None] * np.diag([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(importance(squeezed), expected)


def test_labels_at_rest_count_alike_whatever_noise_their_forces_have():
    labels = emt_labels(4)
    noise = np.repeat([0.0, 1e-12, 1e-3, 1e-2], labels.structures.counts)[:, None] * [1.0, 0.0, 0.0]
    at_rest = replace(labels, forces=noise, stress=np.zeros((4, 3, 3)))
    np.testing.assert_allclose(importance(at_rest), 1.0, atol=0.01)


def test_extreme_labels_are_left_out_and_the_others_train_as_without_them():
    labels = emt_labels(24, seed=3, ids=[*range(23), 0])
    trained = train(beginner(steps=6), with_force(labels, 23, 500.0), [1, 0])
    assert trained.left_out == 1
    expected = train(beginner(steps=6), labels.take(np.arange(23)), [1, 0])
    np.testing.assert_array_equal(trained.curve, expected.curve)


def test_extreme_stress_is_left_out():
    labels = emt_labels(20)
    stress = labels.stress.copy()
    stress[4] *= 1000
    assert train(beginner(steps=1), replace(labels, stress=stress), [1, 0]).left_out == 1


def test_extreme_labels_are_kept_where_a_member_would_have_nothing_to_validate_with():
    draws = bootstrap(np.arange(2), 3, 1)
    row = int(np.flatnonzero(draws[0] == 0)[0])
    ids = [row] + [1 - row] * 14
    labels = with_force(emt_labels(15, ids=ids), 0, 500.0)
    assert train(beginner(steps=1), labels, [1, 0]).left_out == 0


@pytest.mark.parametrize("ids", [[], [3], [3, 3, 3]])
def test_labels_of_fewer_than_two_candidates_are_refused(ids):
    with pytest.raises(ValueError, match=f"labels of {len(set(ids))} candidates; an ensemble needs at least 2"):
        train(beginner(), emt_labels(3, ids=[*ids, 0, 0, 0][:3]).take(np.arange(len(ids))), [1, 0])


def test_two_candidates_are_enough():
    curve = train(beginner(steps=3), emt_labels(2), [1, 0]).curve
    assert np.isfinite(curve["validation"]).all()


CANDIDATES = st.lists(st.integers(0, 30), min_size=2, max_size=60).filter(lambda ids: len(set(ids)) >= 2)


@settings(max_examples=100, deadline=None)
@given(ids=CANDIDATES, cut=st.integers(0, 60), seed=st.integers(0, 1000))
def test_no_member_ever_trains_on_a_candidate_that_it_validates_with(ids, cut, seed):
    candidates = np.array(ids)
    weights = bootstrap(candidates, 4, seed)
    assert weights.shape == (4, len(ids))
    assert ((weights == 0).any(axis=1) & (weights > 0).any(axis=1)).all()
    assert (weights == np.round(weights)).all()
    for candidate in set(ids):
        assert (np.ptp(weights[:, candidates == candidate], axis=1) == 0).all()
    # labels appended in later cycles leave every earlier draw as it was
    np.testing.assert_array_equal(bootstrap(candidates[:cut], 4, seed), weights[:, :cut])


def test_a_fifth_of_the_candidates_is_held_out_and_the_rest_counts_as_in_a_bootstrap():
    weights = bootstrap(np.random.default_rng(1).permutation(1000), 5, 1)
    np.testing.assert_array_equal((weights == 0).sum(axis=1), 200)
    kept = weights[weights > 0]
    # Poisson of mean 1 without its zero
    assert kept.mean() == pytest.approx(1 / (1 - np.exp(-1)), abs=0.05)
    assert (kept == 1).mean() == pytest.approx(np.exp(-1) / (1 - np.exp(-1)), abs=0.03)


def test_sides_hold_over_cycles_whichever_labels_are_extreme(monkeypatch):
    sides: list[dict[int, tuple]] = []
    real = training_module._Targets.of

    def watched(labels, weights, section, device):
        ids = labels.structures.ids.tolist()
        sides.append({candidate: tuple(weights[:, row] == 0) for row, candidate in enumerate(ids)})
        return real(labels, weights, section, device)

    monkeypatch.setattr(training_module._Targets, "of", watched)
    labels = emt_labels(40, seed=3, ids=[*range(30), *range(10)])
    for cycle, count in enumerate((12, 20, 40)):
        train(beginner(steps=1), with_force(labels.take(np.arange(count)), cycle, 300.0), [1, cycle])
    assert [cycle in each for cycle, each in enumerate(sides)] == [False, False, True]  # 2 has another label by then
    assert 0 in sides[1]  # extreme in one cycle, ordinary in the next
    for earlier, later in pairwise(sides):
        assert all(later[candidate] == side for candidate, side in earlier.items() if candidate in later)


# --- the zero of energy

ALONE = {13: -50.0, 8: 430.0, 29: -1500.0}
"""eV, what an atom of each species is given on top of its surroundings."""


def as_alloys(labels: Labels, every: int) -> Labels:
    """The same crystals with the first atom of every so manyth exchanged for another species, and their own zeros."""
    structures = labels.structures
    numbers = structures.numbers.copy()
    numbers[structures.ptr[:-1][::every]] = 29
    alone = np.array([ALONE[number] for number in numbers])
    energy = labels.energy + np.add.reduceat(alone, structures.ptr[:-1])
    return replace(labels, structures=replace(structures, numbers=numbers), energy=energy)


def of_two_atoms(size: int, seed: int = 0) -> Labels:
    labels = emt_labels(3 * size, seed)
    return labels.take(np.flatnonzero(labels.structures.counts == 2)[:size])


def test_species_of_very_different_energies_each_have_their_own_zero():
    labels, unseen = as_alloys(of_two_atoms(24), 2), as_alloys(of_two_atoms(12, seed=9), 3)
    trained = train(beginner(steps=60, learning_rate=5e-3), labels, [1, 0]).ensemble
    error = (trained.predict(unseen.structures).energy - unseen.energy) / unseen.structures.counts
    per_atom = labels.energy / labels.structures.counts
    assert np.ptp(per_atom) > 700
    assert np.abs(error).max() < 2
    relative = without_zero(labels.energy, labels.structures, trained.state)
    assert np.abs(relative / labels.structures.counts).max() < 2
    assert np.median(relative) == pytest.approx(0, abs=0.1)  # of all labels, those left out as extreme included


def test_the_zero_of_compositions_that_tell_all_species_apart_is_what_each_species_adds():
    rng = np.random.default_rng(1)
    atoms = [random_crystal(rng, symbols) for symbols in ("Al4", "AlO3", "Al2O2", "Cu3Al", "CuO", "Al3O")]
    structures = Structures.from_atoms(atoms)
    energy = np.array([sum(ALONE[number] for number in each.numbers) for each in atoms])
    labels = replace(emt_labels(6), structures=structures, energy=energy)
    shift, deviations = fit_zero(labels, np.ones(6), SPECIES)
    assert {number: shift + deviations[number] for number in ALONE} == pytest.approx(ALONE)
    assert np.count_nonzero(deviations) == 3


def test_the_zero_of_two_compositions_is_their_energy_per_atom():
    labels = as_alloys(of_two_atoms(10), 2)
    ensemble = untrained()
    shift, deviations = fit_zero(labels, np.ones(10), SPECIES)
    ensemble.state["energy_shift"] += shift
    ensemble.state["species_shift"] += torch.from_numpy(deviations)
    per_atom = without_zero(labels.energy, labels.structures, ensemble.state) / 2
    for kind in (labels.structures.numbers[::2] == 29, labels.structures.numbers[::2] == 13):
        assert abs(per_atom[kind].mean()) < 0.5


@pytest.mark.parametrize("cells", [1, 3])
def test_with_one_composition_the_zero_is_the_median_energy_per_atom_and_nothing_else(cells):
    rng = np.random.default_rng(2)
    atoms = [random_crystal(rng, symbols) for symbols in ("Al2O", "Al2O", "Al4O2", "Al6O3", "Al2O")[:: 5 // cells]]
    labels = replace(emt_labels(len(atoms)), structures=Structures.from_atoms(atoms))
    shift, deviations = fit_zero(labels, rng.random(len(atoms)), SPECIES)
    assert shift == np.median(labels.energy / labels.structures.counts)
    assert not deviations.any()


def test_zeros_of_species_are_part_of_predictions_and_change_no_forces():
    atoms = random_crystal(np.random.default_rng(3), "Al2O")
    plain, shifted = untrained(), untrained()
    shifted.state["species_shift"][:, [13, 8]] = torch.tensor([1.0, -3.0], dtype=torch.float64)
    before, after = predicted(plain, atoms), predicted(shifted, atoms)
    np.testing.assert_allclose(after.energy - before.energy, -1.0)
    for name in ("energy_sigma", "forces", "stress", "features"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=1e-12)


def test_weights_from_before_species_had_zeros_are_read_with_none(tmp_path):
    shutil.copytree(Path(__file__).parent / "data" / "run-format-2" / "cycle-01" / "train", tmp_path / "train")
    version, about = read_as_written(tmp_path / "train" / "potential.json", "weights")
    all_steps = {"steps_per_label": about["potential"]["steps"]}  # as training was then
    restored = load_ensemble(tmp_path / "train", section_of(**about["potential"], **all_steps), DEVICE)
    assert version == 3
    assert not restored.state["species_shift"].any()
    restored.save(tmp_path)
    again = load_ensemble(tmp_path, restored.section, DEVICE)
    assert_same_prediction(predicted(again, bulk("Al")), predicted(restored, bulk("Al")), 0)
