"""Direct relaxers: pairs, what the network keeps, training that can be cut off, models, and what is refused."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms, FixCartesian
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from csp_al.cli import app
from csp_al.direct import training
from csp_al.direct.metrics import coordinate_errors, displacements, match_rate, near_share, volume_errors
from csp_al.direct.network import DirectNetwork
from csp_al.direct.pairs import Pairs, PairsError, joined, pair_of, read_pairs, write_pairs
from csp_al.direct.relaxer import ABOUT, WEIGHTS, Relaxer, load_relaxer
from csp_al.direct.section import DirectSection
from csp_al.direct.springs import Patience, settle
from csp_al.direct.training import train
from csp_al.direct.vegard import fit_volumes, pays
from csp_al.files import write_sealed
from csp_al.potential.graphs import build_graph, find_edges
from csp_al.structures import Structures

CPU = torch.device("cpu")
LATTICE = {"Cu": 3.6, "Au": 4.1}
SMALL = {"members": 2, "steps": 12, "features": 8, "interactions": 1, "cutoff": 4.5, "batch_atoms": 32}


def alloy_pair(seed: int) -> Pairs:
    """A rattled and strained cell of four atoms, and the ideal one at the volume of its composition."""
    rng = np.random.default_rng(seed)
    symbols = rng.choice(["Cu", "Au"], 4)
    end = bulk("Cu", "fcc", a=float(np.mean([LATTICE[each] for each in symbols])), cubic=True)
    end.symbols = symbols
    start = end.copy()
    strain = rng.normal(0, 0.03, (3, 3))
    start.set_cell(1.05 * start.cell.array @ (np.eye(3) + strain + strain.T), scale_atoms=True)
    start.positions += rng.normal(0, 0.1, (4, 3))
    return pair_of(start, end, moves_cell=True)


def slab_pair(seed: int) -> Pairs:
    """A slab of which the upper layer sinks, the lower is held."""
    start = fcc111("Cu", (1, 1, 3), a=3.6, vacuum=5)
    start.symbols = np.random.default_rng(seed).choice(["Cu", "Au"], 3)
    start.pbc = True
    start.set_constraint(FixAtoms([0]))
    end = start.copy()
    end.positions[2, 2] -= 0.2
    return pair_of(start, end, moves_cell=False)


@pytest.fixture(scope="module")
def alloys() -> Pairs:
    return joined([alloy_pair(seed) for seed in range(24)])


@pytest.fixture(scope="module")
def slabs() -> Pairs:
    return joined([slab_pair(seed) for seed in range(24)])


def untrained(kind: str, cell: str, members: int = 2) -> Relaxer:
    """A relaxer that says something of everything, none of it learnt."""
    section = DirectSection(kind=kind, members=members, steps=1, features=8, interactions=2, cutoff=4.5)
    torch.manual_seed(1)
    networks = [DirectNetwork(section, cell).requires_grad_(requires_grad=False) for _ in range(members)]
    for network in networks:
        for weights in (*network.head[-1].parameters(), network.of_vectors.weight.data[:1]):
            torch.nn.init.normal_(weights, std=0.3)
    return Relaxer(section, cell, (29, 79), None, tuple(networks), CPU)


def everywhere(structures: Structures) -> np.ndarray:
    return np.ones(len(structures.numbers), dtype=bool)


# pairs


def test_pairs_are_read_as_they_were_written(alloys, slabs, tmp_path):
    for name, pairs in {"alloys": alloys, "slabs": slabs}.items():
        write_pairs(tmp_path / f"{name}.extxyz", pairs)
        read = read_pairs(tmp_path / f"{name}.extxyz")
        assert (read.moves_cell, read.free.tolist()) == (pairs.moves_cell, pairs.free.tolist())
        np.testing.assert_allclose(read.end.positions, pairs.end.positions, atol=1e-6)
        np.testing.assert_allclose(read.end.cells, pairs.end.cells, atol=1e-6)


def test_a_relaxed_crystal_may_lie_turned_and_moved():
    start, end = (each.to_atoms()[0] for each in (alloy_pair(0).start, alloy_pair(0).end))
    turned = end.copy()
    turned.positions += 1.7
    turn = Rotation.random(rng=np.random.default_rng(1)).as_matrix()
    turned.set_cell(turned.cell.array @ turn)
    turned.positions = turned.positions @ turn
    one, other = (pair_of(start, each, moves_cell=True) for each in (end, turned))
    np.testing.assert_allclose(other.end.cells, one.end.cells, atol=1e-8)
    np.testing.assert_allclose(other.end.positions, one.end.positions, atol=1e-8)


def broken(text: str, how: str) -> str:
    """Pairs of which the second frame is broken in one way."""
    lines = text.split("\n")
    head, first = lines[7], lines[8].split()
    words = {
        "short": (head, first[:-1]),
        "no column": (head.replace("relaxed_positions", "others"), first),
        "no number": (head, [*first[:-1], "nan"]),
        "far": (head, [*first[:-1], "9.0"]),
        "flipped": (head.replace('relaxed_cell="', 'relaxed_cell="-'), first),
        "no cell": (head.replace("relaxed_cell", "other_cell"), first),
        "five numbers": (head.replace('relaxed_cell="', 'relaxed_cell="1 2 3 4 5" old="'), first),
        "long": (head.replace('relaxed_cell="', 'relaxed_cell="9'), first),
    }
    lines[7], row = words[how]
    lines[8] = " ".join(row)
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("short", "lines 7 to 12: no frame of extxyz"),
        ("no column", "no column relaxed_positions"),
        ("no number", "numbers that are not finite"),
        ("far", r"atom 0 moves .* more than 3; to its nearest image it is .* must be unwrapped"),
        ("flipped", "a flipped cell"),
        ("no cell", "no relaxed_cell in its header, which other frames have"),
        ("five numbers", "relaxed_cell must have nine numbers"),
        ("long", "stretches or compresses the crystal by a factor"),
    ],
)
def test_bad_pairs_are_named_by_frame(alloys, tmp_path, how, said):
    path = tmp_path / "pairs.extxyz"
    write_pairs(path, alloys.take(range(3)))
    path.write_text(broken(path.read_text(), how))
    with pytest.raises(PairsError, match=rf"pairs.extxyz: frame 1: .*{said}.*counted from 0") as raised:
        read_pairs(path)
    assert "\n" not in str(raised.value)


def test_pairs_that_contradict_themselves_are_refused():
    start, end = (each.to_atoms()[0] for each in (alloy_pair(0).start, alloy_pair(0).end))
    other = end.copy()
    other.symbols = "Au4" if "Cu" in end.symbols else "Cu4"
    with pytest.raises(PairsError, match="other atoms at the end"):
        pair_of(start, other, moves_cell=True)
    held = start.copy()
    held.set_constraint(FixAtoms([0]))
    with pytest.raises(PairsError, match="give the one or the other"):
        pair_of(held, end, moves_cell=True)
    moved = held.copy()
    moved.set_constraint()
    moved.positions[0] += 0.3
    with pytest.raises(PairsError, match="atom 0 must not move"):
        pair_of(held, moved, moves_cell=False)
    held.set_constraint(FixCartesian(0, (True, False, False)))
    with pytest.raises(PairsError, match="in all directions or in none"):
        pair_of(held, start, moves_cell=False)


# volumes and metrics


def test_volumes_of_elements_are_found_and_used_where_they_are_nearer(alloys):
    same = replace(alloys, end=alloys.end.moved(alloys.end.positions, alloys.end.cells))
    assert pays(same)
    volumes = fit_volumes(alloys.end)
    np.testing.assert_allclose(volumes.scaled(alloys.start).volumes, volumes.of(alloys.start))
    assert volume_errors(alloys, volumes.scaled(alloys.start)).mean() < 0.2 * volume_errors(alloys, alloys.start).mean()
    assert not pays(replace(alloys, start=alloys.end))


def test_errors_vanish_for_the_relaxed_crystal_and_drift_is_none(alloys):
    moved = alloys.end.moved(alloys.end.positions + 0.4, alloys.end.cells)
    for guess in (alloys.end, moved):
        assert displacements(alloys, guess).max() < 1e-10
        assert coordinate_errors(alloys, guess).max() < 1e-10
    assert match_rate(alloys.take(range(3)), alloys.end.take(range(3))) == 1
    assert near_share(np.array([0.0, 1.0])) == pytest.approx(0.5)


# springs and networks


def test_springs_rest_where_their_energy_is_least():
    structures = Structures.from_atoms([bulk("Cu", "fcc", a=3.6, cubic=True)])
    graph = build_graph(structures, find_edges(structures, 3.0), np.array([0]), CPU, torch.float64)
    rng = np.random.default_rng(0)
    lengths, stiffness = (torch.from_numpy(each) for each in (rng.uniform(2.4, 2.7, 24), rng.uniform(0.5, 2, 24)))
    free = torch.tensor([False, True, True, True])
    moves = settle(graph, lengths, stiffness, free, Patience(30, 5000, 1e-9)).numpy()

    def energy(flat: np.ndarray) -> float:
        u = np.vstack([np.zeros(3), flat.reshape(3, 3)])
        vectors = graph.vectors.numpy() + u[graph.target.numpy()] - u[graph.source.numpy()]
        return float((stiffness.numpy() * (np.linalg.norm(vectors, axis=1) - lengths.numpy()) ** 2).sum())

    least = minimize(energy, np.zeros(9), tol=1e-12).x.reshape(3, 3)
    np.testing.assert_allclose(moves[1:], least, atol=1e-4)
    assert not moves[0].any()


@pytest.mark.parametrize(("kind", "cell"), [("deeprelax", "free"), ("deeprelax", "shape"), ("dogss", "fixed")])
def test_what_is_predicted_turns_with_the_crystal_and_is_of_the_crystal_alone(alloys, kind, cell):
    relaxer, one = untrained(kind, cell), alloys.start.take([0])
    said = relaxer.predict(one, everywhere(one))
    assert np.abs(said.structures.positions - one.positions).max() > 1e-3

    turn = Rotation.random(rng=np.random.default_rng(1)).as_matrix()
    turned = relaxer.predict(one.moved(one.positions @ turn, one.cells @ turn), everywhere(one))
    np.testing.assert_allclose(turned.structures.positions, said.structures.positions @ turn, atol=1e-4)
    np.testing.assert_allclose(turned.structures.cells, said.structures.cells @ turn, atol=1e-5)
    np.testing.assert_allclose(turned.uncertainty, said.uncertainty, atol=1e-5)

    among = relaxer.predict(alloys.start, everywhere(alloys.start))
    np.testing.assert_allclose(among.structures.positions[:4], said.structures.positions, atol=1e-5)

    twice = Structures.from_atoms([one.to_atoms()[0].repeat((2, 1, 1))])
    doubled = relaxer.predict(twice, everywhere(twice))
    moves, expected = doubled.structures.positions[:4], said.structures.positions
    np.testing.assert_allclose(moves, expected, atol=1e-4)
    np.testing.assert_allclose(doubled.uncertainty, said.uncertainty, atol=1e-4)
    if cell == "shape":
        np.testing.assert_allclose(said.structures.volumes, one.volumes, rtol=1e-5)


def test_held_atoms_stay(slabs):
    said = untrained("dogss", "fixed").predict(slabs.start, slabs.free)
    moved = np.linalg.norm(said.structures.positions - slabs.start.positions, axis=1) > 1e-4
    assert not moved[~slabs.free].any()
    assert moved[slabs.free].mean() > 0.9
    np.testing.assert_array_equal(said.structures.cells, slabs.start.cells)


def test_an_untrained_relaxer_leaves_crystals_as_they_are(alloys):
    section = DirectSection(kind="deeprelax", members=1, steps=1, features=8, interactions=1)
    relaxer = Relaxer(section, "free", (29, 79), None, (DirectNetwork(section, "free"),), CPU)
    said = relaxer.predict(alloys.start, everywhere(alloys.start))
    np.testing.assert_allclose(said.structures.positions, alloys.start.positions, atol=1e-4)


# training and models


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("kind", ["deeprelax", pytest.param("dogss", marks=pytest.mark.long)])
def test_training_that_is_cut_off_ends_as_if_it_had_not_been(alloys, slabs, tmp_path, monkeypatch, kind):
    pairs, section = (alloys if kind == "deeprelax" else slabs), DirectSection(kind=kind, **SMALL)
    monkeypatch.setattr(training, "EVERY", -1.0)
    whole = train(pairs, section, tmp_path / "whole", CPU)
    for member, epoch in ((0, 2), (1, 3)):

        def stop(now: int, done: int, *_: object, at: tuple[int, int] = (member, epoch)) -> None:
            if (now, done) == at:
                raise StoppedError

        with pytest.raises(StoppedError):
            train(pairs, section, tmp_path / "cut", CPU, stop)
    cut = train(pairs, section, tmp_path / "cut", CPU)
    assert (tmp_path / "whole" / ABOUT).read_bytes() == (tmp_path / "cut" / ABOUT).read_bytes()
    for one, other in zip(whole.members, cut.members, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [ABOUT, "training.json", WEIGHTS]
    loaded = load_relaxer(tmp_path / "cut", CPU).predict(pairs.start, pairs.free)
    np.testing.assert_array_equal(loaded.structures.positions, whole.predict(pairs.start, pairs.free)[0].positions)


@pytest.mark.long
def test_relaxers_learn(alloys, slabs, tmp_path):
    seen, unseen = slice(0, 20), range(20, 24)
    for kind, pairs in (("deeprelax", alloys), ("dogss", slabs)):
        section = DirectSection(kind=kind, **(SMALL | {"steps": 300, "features": 16, "interactions": 2}))
        relaxer = train(pairs.take(np.arange(24)[seen]), section, tmp_path / kind, CPU)
        test = pairs.take(unseen)
        error = displacements(test, relaxer.predict(test.start, test.free).structures)
        assert error.mean() < 0.5 * displacements(test, test.start).mean()


@pytest.fixture(scope="module")
def model(alloys, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("relaxer") / "model"
    train(alloys, DirectSection(kind="deeprelax", **(SMALL | {"steps": 1})), folder, CPU)
    return folder


def copied(model: Path, to: Path) -> Path:
    to.mkdir()
    for path in model.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_models_that_are_none_are_refused_in_words(model, tmp_path):
    for name, spoil, said in [
        ("gone", lambda folder: (folder / WEIGHTS).unlink(), "no model"),
        ("pickle", lambda folder: (folder / WEIGHTS).write_bytes(pickle.dumps(print)), "no weights"),
        ("object", lambda folder: torch.save({"a": Atoms()}, folder / WEIGHTS), "no weights"),
        ("other", lambda folder: torch.save({"a": torch.ones(3)}, folder / WEIGHTS), "weights of another network"),
        ("damaged", lambda folder: (folder / ABOUT).write_text("{}"), "train it again"),
        ("keys", lambda folder: write_sealed(folder / ABOUT, "relaxer", {}), "train it again"),
    ]:
        folder = copied(model, tmp_path / name)
        spoil(folder)
        with pytest.raises(ValueError, match=said) as raised:
            load_relaxer(folder, CPU)
        assert "\n" not in str(raised.value)
    newer = copied(model, tmp_path / "newer")
    about = json.loads((newer / ABOUT).read_text())
    (newer / ABOUT).write_text(json.dumps({"format": 99} | {"relaxer": about}))
    assert run("apply", newer, tmp_path / "a.cif", "--out", tmp_path / "b.cif").exit_code == 2


# command line


def run(*words: object):
    return CliRunner().invoke(app, ["relaxer", *map(str, words)])


def test_relaxer_is_trained_tested_and_applied_by_commands(alloys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(Path("pairs.extxyz"), alloys)
    words = ("train", "pairs.extxyz", "--out", "model", "--members", 2, "--steps", 1)
    trained = run(*words)
    assert trained.exit_code == 0, trained.output
    assert "24 pairs" in trained.stdout
    assert run(*words).exit_code == 0
    again = run(*words, "--seed", 1)
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1)
    assert "other pairs or settings" in again.stderr

    told = json.loads(run("test", "model", "pairs.extxyz", "--json").stdout)
    assert list(told["rows"]) == ["nothing", "volumes", "deeprelax"]
    assert told["rows"]["volumes"]["volume"] < told["rows"]["nothing"]["volume"]
    assert "Spearman" in run("test", "model", "pairs.extxyz").stdout

    ase.io.write("start.extxyz", alloys.start.to_atoms())
    applied = run("apply", "model", "start.extxyz", "--out", "end.extxyz")
    assert applied.exit_code == 0, applied.output
    ended = ase.io.read("end.extxyz", index=":")
    assert len(ended) == 24
    assert all(atoms.info["uncertainty"] > 0 for atoms in ended)
    assert "exists" in run("apply", "model", "start.extxyz", "--out", "end.extxyz").stderr


def test_what_a_relaxer_cannot_do_is_told_in_one_line(alloys, slabs, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(Path("cells.extxyz"), alloys)
    write_pairs(Path("slabs.extxyz"), slabs)
    write_pairs(Path("few.extxyz"), alloys.take(range(3)))
    ase.io.write("silver.extxyz", [bulk("Cu"), bulk("Ag")])
    Path("no.extxyz").write_text("4\n")
    for words, said in [
        (("train", "cells.extxyz", "--kind", "dogss", "--out", "m"), "cells.extxyz: dogss keeps the cell"),
        (("train", "few.extxyz", "--out", "m"), "few.extxyz: 3 pairs; at least 20"),
        (("train", "gone.extxyz", "--out", "m"), "gone.extxyz: there is no such file"),
        (("train", "no.extxyz", "--out", "m"), "no.extxyz: frame 0: line 1: 4 atoms are announced, 0 are there"),
        (("train", "cells.extxyz", "--out", "."), "other files are there"),
        (("test", model, "slabs.extxyz"), "moves cells"),
        (("test", tmp_path / "none", "cells.extxyz"), "no model"),
        (
            ("apply", model, "silver.extxyz", "--out", "a.extxyz"),
            "silver.extxyz: frame 1: Ag, but the pairs",
        ),
        (("apply", model, "slabs.extxyz", "--out", "a.extxyz"), "slabs.extxyz: frame 0: atoms that must not move"),
        (("apply", model, "cells.extxyz", "--out", "a.nothing"), "no format has such names"),
    ]:
        ended = run(*words)
        assert ended.exit_code == 2, (words, ended.output)
        assert said in ended.stderr
        assert ended.stderr.count("\n") == 1, ended.stderr


CAMPAIGN = """\
name: emt
pool: {formula: Cu2Au2, size: 20}
reference: {kind: ase, calculator: ase.calculators.emt.EMT}
potential: {members: 2}
"""


def test_steps_of_the_reference_are_counted_from_both_starts(alloys, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(Path("pairs.extxyz"), alloys.take([0]))
    Path("emt.yaml").write_text(CAMPAIGN)
    ended = run("test", model, "pairs.extxyz", "--reference", "emt.yaml", "--json")
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)["reference"]
    assert list(told) == ["nothing", "volumes", "deeprelax"]
    assert told["nothing"]["steps"] == told["deeprelax"]["steps_from_original"] > 1
    assert 0 <= told["deeprelax"]["afbt"] <= 1
