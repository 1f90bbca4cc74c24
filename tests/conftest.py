"""What several test files share: one small campaign, run to its end by the real loop, and a shim to stop others."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from io_points import THREADS, NoShimError, Server, Shim

# Tests run side by side and start processes; more threads than cores wait for each other, and spin meanwhile.
os.environ.update(dict.fromkeys(THREADS, "1"))

CAMPAIGN = """\
name: al4
seed: 3
pool: {formula: Al4, size: 24, volume_per_atom: [12, 24]}
reference: {kind: ase, calculator: ase.calculators.emt.EMT, max_force: 10, max_fail_fraction: 0.9}
potential: {members: 2, features: 16, interactions: 2, cutoff: 5.0, steps: 50, batch_size: 8}
relax: {max_steps: 40}
select: {per_cycle: 8, clusters: 8}
stop: {top_k: 2, max_cycles: 3}
finish: {max_steps: 40}
"""


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """Three cycles of Al4 by EMT, with some labels rejected for their forces. To be read, never written."""
    from small_run import run_to_its_end

    return run_to_its_end(tmp_path_factory.mktemp("finished"), CAMPAIGN)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder to be in, with ``small.yaml``, whose calculator fails as files there say; see `faulty_emt`."""
    from faulty_emt import CAMPAIGN as FAULTY

    (tmp_path / "small.yaml").write_text(FAULTY.format(folder=tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def shim(tmp_path_factory) -> Shim:
    """Counts the calls by which programs change files, and stops them at one; see `io_points`."""
    try:
        return Shim(tmp_path_factory.mktemp("shim"))
    except NoShimError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def server(shim) -> Iterator[Server]:
    """Runs `csp-al` under the shim."""
    with Server(shim) as running:
        yield running
