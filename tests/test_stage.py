"""A stage by itself: done in another process, published by the driver, and the same as the driver's own."""

from __future__ import annotations

import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from small_run import cut_after, go_on

from csp_al.files import read_sealed, write_sealed
from csp_al.loop import bodies, stage
from csp_al.loop.search import search
from csp_al.loop.stage import ALONE, REFUSED, do_stage
from csp_al.store.filled import fill, settings_of, take_filled
from csp_al.store.lock import InUseError, locked
from csp_al.store.run_directory import SETTINGS, STAGES
from csp_al.store.stages import is_published, manifest, partial

CPU = torch.device("cpu")
BODIES = (
    "make_candidates", "train_ensemble", "relax_candidates", "rank_candidates", "judge_cycle", "select_picks",
)  # fmt: skip


class NotHereError(Exception):
    """A stage that is to be done elsewhere would be done here."""


def quiet(*_, **__):
    pass


def files(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def elsewhere():
    """A process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield process


@pytest.mark.parametrize(
    ("keep", "names"),
    [
        ("", ["pool"]),
        ("cycle-01/label", [f"cycle-01/{name}" for name in ("train", "relax", "rank", "verdict", "select")]),
    ],
)
def test_stages_done_in_another_process_are_those_of_the_driver(
    finished_run, elsewhere, tmp_path, monkeypatch, keep, names
):
    def refuse(*_, **__):
        raise NotHereError

    for body in BODIES:
        monkeypatch.setattr(bodies, body, refuse)
    run = cut_after(finished_run, tmp_path, keep)
    for name in names:
        before = files(run)
        assert elsewhere.submit(stage.main, [str(run), name, "--device", "cpu"]).result() == 0
        aside = partial(run / name)
        assert {path: content for path, content in files(run).items() if aside not in path.parents} == before
        with pytest.raises(NotHereError):  # at the next one
            go_on(run)
        assert manifest(run / name)["files"] == manifest(finished_run / name)["files"]
        for later in run.rglob("*.partial"):
            later.rmdir()


def test_every_stage_that_needs_no_engine_can_be_done_by_itself():
    assert set(ALONE) == {"pool", "foundation", *STAGES} - {"label"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cycle-00/train", "cycle-00/train of RUN is published already; there is nothing to do"),
        ("cycle-01/relax", "cycle-01/relax of RUN cannot be done yet: cycle-01/train comes before it"),
        ("cycle-02/train", "cycle-02/train of RUN cannot be done yet: cycle-01/train comes before it"),
        ("cycle-01/label", "cycle-01/label needs an engine, and so a driver: csp-al resume RUN"),
        ("cycle-01/grow", "cycle-01/grow of RUN is none: its pool does not grow"),
        ("cycle-01/direct", "cycle-01/direct of RUN is none: the campaign asks for no direct relaxer"),
        ("winners", "winners needs an engine"),
        ("cycle-01/trian", "no stage is called cycle-01/trian, did you mean train?"),
        ("cycle-01/pool", "no stage is called cycle-01/pool; there are pool, and in cycle-NN/ label, train,"),
        ("../cycle-01/train", "no stage is called ../cycle-01/train"),
    ],
)
def test_a_stage_that_cannot_be_done_by_itself_is_refused_in_a_line(finished_run, tmp_path, capsys, name, said):
    run = cut_after(finished_run, tmp_path, keep="cycle-01/label")
    before = files(run)
    assert stage.main([str(run), name, "--device", "cpu"]) == REFUSED
    assert capsys.readouterr().err.startswith(said.replace("RUN", str(run)))
    assert files(run) == before


def test_a_stage_after_the_end_of_the_search_is_none(finished_run, tmp_path, capsys):
    assert stage.main([str(finished_run), "cycle-07/train", "--device", "cpu"]) == REFUSED
    assert "is none: the search ends before it" in capsys.readouterr().err
    assert stage.main([str(tmp_path), "cycle-00/train", "--device", "cpu"]) == REFUSED
    assert "no run directory" in capsys.readouterr().err
    (tmp_path / "al4.yaml").touch()
    assert stage.main([str(tmp_path / "al4.yaml"), "pool", "--device", "cpu"]) == REFUSED
    assert "al4.yaml: a file, where a run directory is expected" in capsys.readouterr().err


def test_what_was_done_elsewhere_is_published_only_as_it_was_written_and_with_the_settings_of_now(
    finished_run, tmp_path
):
    run = cut_after(finished_run, tmp_path, keep="cycle-01/relax")
    folder = run / "cycle-01" / "rank"

    def is_taken():
        return take_filled(run, folder, run / "cycle-01" / "relax") is not None

    aside = do_stage(run, "cycle-01/rank", CPU, quiet)
    ranking = aside / "ranking.csv"
    assert ranking.read_bytes() == (finished_run / "cycle-01" / "rank" / "ranking.csv").read_bytes()
    content, settings = ranking.read_bytes(), (run / SETTINGS).read_bytes()
    ranking.write_bytes(b"torn")
    assert not is_taken()
    ranking.write_bytes(content)
    (run / SETTINGS).write_bytes(settings + b" ")
    assert not is_taken()
    (run / SETTINGS).write_bytes(settings)
    assert take_filled(run, folder, run / "cycle-01" / "train") is None  # of another history
    assert is_taken()
    assert [path.name for path in aside.iterdir()] == ["ranking.csv"]


def test_a_stage_that_another_process_is_at_is_left_to_it(finished_run, tmp_path):
    run = cut_after(finished_run, tmp_path, keep="cycle-01/relax")
    aside = partial(run / "cycle-01" / "rank")
    aside.mkdir()
    with locked(aside):
        with pytest.raises(InUseError, match="rank is being done by process"):
            go_on(run)
        with pytest.raises(InUseError, match=r"rank of .* is being done by process"):
            do_stage(run, "cycle-01/rank", CPU, quiet)
    with locked(run), pytest.raises(InUseError, match="by process"):  # a driver is at it
        do_stage(run, "cycle-01/rank", CPU, quiet)
    do_stage(run, "cycle-01/rank", CPU, quiet)
    assert not is_published(run / "cycle-01" / "rank")


def test_a_stage_that_a_driver_has_come_to_meanwhile_is_left_to_it(finished_run, tmp_path, monkeypatch):
    run = cut_after(finished_run, tmp_path, keep="cycle-01/relax")
    aside = partial(run / "cycle-01" / "rank")

    def come(*words):
        aside.mkdir(exist_ok=True)
        (aside / "ranking.csv").write_text("half")
        return search(*words)

    monkeypatch.setattr(stage, "search", come)
    with locked(run), pytest.raises(InUseError, match=r"rank of .* is being done by process"):
        do_stage(run, "cycle-01/rank", CPU, quiet)
    assert (aside / "ranking.csv").read_text() == "half"


def test_a_folder_that_another_process_fills_is_not_emptied(finished_run, tmp_path):
    run = cut_after(finished_run, tmp_path, keep="cycle-01/relax")
    folder, after = run / "cycle-01" / "rank", run / "cycle-01" / "relax"
    aside = partial(folder)

    def come_second(_):
        raise NotHereError

    def write(place):
        assert not (place / "left").exists()
        (place / "ranking.csv").write_text("first")
        with pytest.raises(InUseError):
            fill(folder, after, settings_of(run), come_second)

    aside.mkdir()
    (aside / "left").mkdir()
    fill(folder, after, settings_of(run), write)
    assert (aside / "ranking.csv").read_text() == "first"
    assert take_filled(run, folder, after) is not None


def test_claims_of_a_process_that_was_killed_are_not_published(finished_run, tmp_path):
    run = cut_after(finished_run, tmp_path, keep="cycle-01/relax")
    aside = do_stage(run, "cycle-01/rank", CPU, quiet)
    for name in ("LOCK", "LOCK.1"):
        (aside / name).write_text("{}")
    assert take_filled(run, run / "cycle-01" / "rank", run / "cycle-01" / "relax") is not None
    assert [path.name for path in aside.iterdir()] == ["ranking.csv"]


def test_code_that_the_author_of_a_run_directory_chose_is_not_run_unasked(finished_run, tmp_path, monkeypatch, capsys):
    run = cut_after(finished_run, tmp_path, keep="cycle-01/relax")
    (tmp_path / "intruder.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = read_sealed(run / SETTINGS, "settings")
    settings["campaign"]["reference"] = {"kind": "intruder.KIND"}
    write_sealed(run / SETTINGS, "settings", settings)
    assert stage.main([str(run), "cycle-01/rank", "--device", "cpu"]) == 0  # no reference is needed for that
    settings["campaign"]["pool"]["sources"] = [{"kind": "intruder.KIND", "share": 0.5}]
    write_sealed(run / SETTINGS, "settings", settings)
    capsys.readouterr()
    assert stage.main([str(run), "cycle-01/rank", "--device", "cpu"]) == REFUSED
    assert "asks for intruder.KIND, code of its author; if you know" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_a_stage_is_not_written_out_of_the_run_directory(finished_run, tmp_path, capsys):
    run = cut_after(finished_run, tmp_path, keep="cycle-01/relax")
    shutil.move(run / "cycle-01", tmp_path / "elsewhere")
    (run / "cycle-01").symlink_to(tmp_path / "elsewhere")
    assert stage.main([str(run), "cycle-01/rank", "--device", "cpu"]) == REFUSED
    assert "leads out of the run directory" in capsys.readouterr().err
    assert not partial(Path(tmp_path / "elsewhere" / "rank")).exists()
