"""The page of a campaign: what it shows, that it loads and runs nothing else, and that texts of a run stay text."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from base64 import b64decode, b64encode
from fnmatch import fnmatch
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from ase.build import bulk
from hostile import ESCAPE, forge
from typer.testing import CliRunner

from csp_al import open_run
from csp_al.cli import app
from csp_al.files import write_sealed
from csp_al.hdf5 import save
from csp_al.report import page as page_module
from csp_al.report.page import thinned, write_report
from csp_al.report.page.cells import MISSING, Column, counts, table_of
from csp_al.report.page.views import packed
from csp_al.store.lock import locked
from csp_al.store.run_directory import log, prepare, read_campaign_of
from csp_al.structures import Structures

ROOT = Path(__file__).parents[1]
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>'\"" + ESCAPE + "\ud800{{ 7 * 7 }}"
OLDER = sorted((ROOT / "tests" / "data").glob("run-format-*"))
LARGEST = 15e6
"""Bytes, of a page that can be sent."""


class Page(HTMLParser):
    """Tags with their attributes, texts, and what its scripts hold."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        elif tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_data(self, data):
        last = self.tags[-1][0] if self.tags else ""
        if last == "script" and self.scripts[-1][1] == "":
            self.scripts[-1] = (self.scripts[-1][0], data)
        elif last in {"td", "span", "button", "small"} and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()
        self.text += data

    def data(self, name: str) -> dict:
        """A block of JSON."""
        (found,) = [text for attributes, text in self.scripts if attributes.get("id") == name]
        return json.loads(found)

    def values(self, attribute: str) -> list[str | None]:
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]


@pytest.fixture(scope="module")
def run(finished_run):
    return open_run(finished_run)


@pytest.fixture(scope="module")
def path(finished_run, tmp_path_factory):
    return write_report(finished_run, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def page(path):
    return Page(path)


@pytest.fixture
def copy(tmp_path, finished_run):
    shutil.copytree(finished_run, tmp_path / "copy")
    return tmp_path / "copy"


def arrays(content: dict) -> Structures:
    """What `csp_al.report.page.views.packed` packed."""
    numbers, fractions, cells = (
        np.frombuffer(b64decode(content[name]), kind)
        for name, kind in (("numbers", "u1"), ("fractions", "<u2"), ("cells", "<f4"))
    )
    structures = Structures(
        ids=np.array(content["ids"]),
        ptr=np.array(content["ptr"]),
        numbers=numbers.astype(np.int64),
        positions=np.zeros((len(numbers), 3)),
        cells=cells.reshape(-1, 3, 3).astype(float),
    )
    places = np.einsum("ai,aij->aj", fractions.reshape(-1, 3) / 65536, structures.cells[structures.system])
    return structures.moved(places, structures.cells)


def off_by_lattice_vectors(found: Structures, expected: Structures) -> float:
    """The largest distance of an atom from where it should be, Å, but for lattice vectors."""
    inverse = np.linalg.inv(expected.cells)[expected.system]
    apart = np.einsum("ai,aij->aj", found.positions - expected.positions, inverse)
    return float(np.abs(np.einsum("ai,aij->aj", apart - np.rint(apart), np.linalg.inv(inverse))).max())


# what it shows


def test_the_ranking_is_that_of_the_results(page, run):
    (heading,) = [row for row in page.rows if "force lefteV/Å" in row]
    first = page.rows.index(heading) + 1
    for cells, row in zip(page.rows[first:], run.result_rows, strict=False):
        shown = dict(zip(heading, cells, strict=True))
        assert (shown["candidate"], shown["reached"]) == (str(row["id"]), str(row["times_reached"]))
        assert shown["energyeV/atom"] == f"{row['energy_per_atom']:.4f}"
        assert shown["offmeV/atom"] == f"{1000 * (row['predicted_energy_per_atom'] - row['energy_per_atom']):.1f}"
        assert f"({row['space_group']['number']})" in shown["space group"]
    assert len(run.result_rows) > 1


def test_it_says_how_sure_one_may_be_what_was_asked_what_it_cost_and_how_to_cite(page, run):
    judgement = run.judged("DIR")
    for words in (
        judgement.word, *(reason.what for reason in judgement.reasons), *judgement.lines, run.campaign.candidates,
        "arXiv:2408.04073", "numpy", "all up to winners", "final relaxations", "labels asked for",
        (run.path / "campaign.yaml").read_text(),
    ):  # fmt: skip
        assert words in page.text
    assert str(run.path) not in page.text


def test_labels_that_were_rejected_are_counted_by_their_reason(page, run):
    rejected = (run.labels["status"] == "rejected").sum()
    assert ["rejected: force of … eV/Å, allowed up to … (reference.max_force)", str(rejected)] in page.rows


def test_figures_are_those_of_the_notebook(page, run):
    names = set(page.values("data-figure"))
    assert names == {"errors", "calibration", "convergence", "parity", "map", "costs"}
    for name in names:
        assert page.data(f"figure-{name}")["data"]
    (first, *_) = page.data("figure-convergence")["data"]
    energies = np.frombuffer(b64decode(first["y"]["bdata"]), first["y"]["dtype"])
    np.testing.assert_array_equal(energies, run.cycles["best_labelled_energy_per_atom"])


def test_views_show_the_crystals_of_the_results_and_the_candidates_of_the_map(page, run):
    crystals = page.data("crystals")
    assert crystals["ids"] == [row["id"] for row in run.result_rows]
    assert [caption.rpartition(", ")[2] for caption in crystals["captions"]] == [
        f"{row['energy_per_atom']:.4f} eV/atom" for row in run.result_rows
    ]
    assert all(text.startswith("# written by csp_al") and "_symmetry" in text for text in crystals["cifs"])
    candidates = page.data("candidates")
    ranked = run.ranking()["id"].tolist()
    assert candidates["ids"] == [candidate for candidate in ranked if candidate in set(run.pool_map()["id"])]
    relaxed = Structures.from_atoms(run.structures(candidates["ids"], cycle=-1), candidates["ids"])
    assert off_by_lattice_vectors(arrays(candidates), relaxed) < 0.002


def test_packed_structures_are_within_a_thousandth_of_an_angstrom():
    rng = np.random.default_rng(0)
    crystals = [bulk("Al", cubic=True), bulk("NaCl", "rocksalt", a=5.6) * (1, 2, 1)]
    for atoms in crystals:
        atoms.rattle(0.3, rng=rng)
    structures = Structures.from_atoms(crystals, [7, 3])
    content = packed(structures)
    found = arrays(content)
    assert content["symbols"] == {11: "Na", 13: "Al", 17: "Cl"}
    assert content["metals"] == ["Na", "Al"]
    assert content["ids"] == [7, 3]
    np.testing.assert_array_equal(found.numbers, structures.numbers)
    np.testing.assert_allclose(found.cells, structures.cells, atol=1e-5)
    assert off_by_lattice_vectors(found, structures) < 0.001


def test_a_large_table_is_thinned_and_keeps_what_is_marked(monkeypatch):
    monkeypatch.setattr(page_module, "POINTS", 10)
    table = pd.DataFrame({"picked": [number in {3, 57} for number in range(100)]})
    kept = thinned(table, ["picked"])
    assert {0, 3, 57, 99} <= set(kept.index)
    assert len(kept) == 12
    assert len(thinned(table, [])) == 10
    assert thinned(table[:10], []) is not None


def test_cells_are_sorted_by_their_numbers_and_missing_ones_have_none():
    frame = pd.DataFrame({"share": [0.5, None], "count": pd.array([3, None], dtype="Int64"), "name": ["b", "a"]})
    columns = {"share": Column("share", ".0%", bar=True), "count": Column("n", "d"), "name": Column("name")}
    first, second = table_of(frame, columns).rows
    assert [(cell.text, cell.value) for cell in first] == [("50%", 0.5), ("3", 3.0), ("b", "b")]
    assert first[0].share == 100
    assert [(cell.text, cell.value) for cell in second[:2]] == [(MISSING, None)] * 2
    assert [row[0].text for row in counts("what", {"few": 1, "many": 5}).rows] == ["many", "few"]


# runs in any state


def test_a_run_in_any_state_has_its_page(copy, tmp_path):
    shutil.rmtree(copy / "winners")
    shutil.rmtree(copy / "cycle-02" / "verdict")
    log(copy, "started")
    interrupted = Page(write_report(copy))
    assert "The campaign was interrupted in cycle 2" in interrupted.text
    top = json.loads((copy / "cycle-01" / "verdict" / "verdict.json").read_text())["top"]
    assert interrupted.data("crystals")["ids"] == top
    assert "eV/atom predicted" in interrupted.data("crystals")["captions"][0]
    with locked(copy):
        assert "The campaign is running, cycle 2" in " ".join(Page(write_report(copy)).text.split())
    log(copy, "failed", reason="none of the 2 leading crystals could be relaxed")
    failed = Page(write_report(copy))
    assert "The campaign failed" in failed.text
    assert "none of the 2 leading crystals could be relaxed" in failed.text
    for name in ("cycle-00", "cycle-01", "cycle-02", "check"):
        shutil.rmtree(copy / name)
    labelled_nothing = Page(write_report(copy))
    assert "24 candidates, by origin" in labelled_nothing.text
    assert "No candidate was ranked yet" in labelled_nothing.text
    prepare(tmp_path / "begun", read_campaign_of(copy), copy / "campaign.yaml", {})
    begun = Page(write_report(tmp_path / "begun"))
    assert "The campaign has not begun" in begun.text
    assert begun.data("crystals")["ids"] == begun.data("candidates")["ids"] == []


@pytest.mark.parametrize("older", OLDER, ids=lambda path: path.name)
def test_a_run_of_an_older_version_has_its_page(older, tmp_path):
    shown = Page(write_report(older, tmp_path / "page.html"))
    assert shown.data("crystals")["ids"] == [row["id"] for row in open_run(older).result_rows]


# what it loads and runs


def test_the_page_loads_nothing_and_its_links_lead_within_it(path, page):
    assert path.stat().st_size < LARGEST / 2
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    links = page.values("href")
    assert links
    assert {link[1:] for link in links} <= set(ids)
    assert all(link.startswith("#") for link in links)
    assert not page.values("src")
    assert not {"link", "iframe", "object", "embed", "form", "img", "base"} & {tag for tag, _ in page.tags}
    assert not re.search(r"@import|url\(", (ROOT / "csp_al" / "report" / "page" / "report.css").read_text())


def test_only_the_scripts_of_the_page_may_run(page):
    (policy,) = [tag["content"] for _, tag in page.tags if tag.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data: blob:"
    run = [text for attributes, text in page.scripts if "type" not in attributes]
    digests = [f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in run]
    assert rules["script-src"].split() == digests
    assert len(run) == 3
    assert not [name for _, tag in page.tags for name in tag if name.startswith("on")]


def test_texts_of_a_run_stay_text(copy, page, tmp_path):
    names = [path.name for path in (copy / "winners").glob("*.cif")]
    assert names
    (copy / "campaign.yaml").write_text(EVIL, errors="replace")
    rows = json.loads((copy / "winners" / "results.json").read_text())
    rows[0] |= {"formula": EVIL, "space_group": {"symbol": EVIL, "number": 1}}
    (copy / "winners" / "results.json").write_text(json.dumps(rows))
    summary = json.loads((copy / "winners" / "summary.json").read_text())
    summary |= {"failed": [{"id": 1, "reason": EVIL}], "stop": EVIL}
    (copy / "winners" / "summary.json").write_text(json.dumps(summary))
    ranking = pd.read_csv(copy / "cycle-02" / "rank" / "ranking.csv").assign(reason="<b>" + EVIL[:-20])
    ranking.to_csv(copy / "cycle-02" / "rank" / "ranking.csv", index=False)
    verdict = json.loads((copy / "cycle-02" / "verdict" / "verdict.json").read_text()) | {"reason": EVIL}
    (copy / "cycle-02" / "verdict" / "verdict.json").write_text(json.dumps(verdict))
    labels = open_run(copy).all_labels
    evil = labels.take(labels.cycle == 0)
    evil.reason[:] = EVIL[:20]
    save(copy / "cycle-00" / "label" / "labels.h5", evil)
    began = json.loads((copy / "provenance.json").read_text())
    del began["sha256"], began["format"]
    packages = {"numpy": EVIL[:-20], "csp_al": EVIL[:-20]}
    write_sealed(copy / "provenance.json", "provenance", began | {"packages": packages, "programs": {EVIL[:9]: "1"}})
    forge(copy)
    spoilt = write_report(copy, tmp_path / "spoilt.html")
    shown = Page(spoilt)
    assert [tag for tag, _ in shown.tags if tag in {"script", "img", "b"}] == [
        tag for tag, _ in page.tags if tag in {"script", "img", "b"}
    ]
    assert shown.text.count("alert(1)") > 5
    assert "{{ 7 * 7 }}" in shown.text
    assert not [letter for letter in ("\x1b", "\x9b", "\x07") if letter in spoilt.read_text(encoding="utf-8")]
    hover = json.dumps(shown.data("figure-map"))
    assert "&lt;b&gt;" in hover
    assert "<b>" not in hover


def test_everything_that_the_page_is_made_of_is_shipped():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = settings["tool"]["setuptools"]["package-data"]["csp_al.report.page"]
    files = [path.name for path in (ROOT / "csp_al" / "report" / "page").iterdir() if path.is_file()]
    assert [name for name in files if not name.endswith(".py") and not any(fnmatch(name, one) for one in shipped)] == []
    assert "csp_al/report/page/3Dmol-LICENSE.txt" in settings["project"]["license-files"]


# the verb


def test_the_verb_writes_into_the_run_directory_or_where_it_is_told(copy, tmp_path):
    (tmp_path / "precious").write_text("mine")
    (copy / "report.html").symlink_to(tmp_path / "precious")
    done = CliRunner().invoke(app, ["report", str(copy)])
    assert (done.exit_code, done.output.split(" MB")[0][:-3]) == (0, f"Wrote {copy / 'report.html'} (")
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (copy / "report.html").is_symlink()
    assert CliRunner().invoke(app, ["status", str(copy)]).exit_code == 0
    for to, words in ((tmp_path, "where the name of a file is expected"), (tmp_path / "a" / "b", "make it first")):
        refused = CliRunner().invoke(app, ["report", str(copy), "--to", str(to)])
        assert refused.exit_code == 2
        assert words in refused.output
    refused = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert refused.exit_code == 2
    assert "no run directory" in refused.output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stable_cycles": 10**30}, "stable_cycles is no number of cycles"),
        ({"top": [10**6, 1]}, "it names candidates that were not ranked"),
    ],
)
def test_a_verdict_that_cannot_be_is_named(copy, change, words):
    shutil.rmtree(copy / "winners")
    path = copy / "cycle-02" / "verdict" / "verdict.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    forge(copy)
    refused = CliRunner().invoke(app, ["report", str(copy)])
    assert refused.exit_code == 2
    assert words in refused.output


def test_features_of_another_shape_are_refused(copy):
    path = copy / "cycle-02" / "relax" / "relaxed.h5"
    with h5py.File(path, "r+") as file:
        features = file["prediction/features"][()]
        del file["prediction/features"]
        file["prediction/features"] = features[:, None]
    forge(copy)
    refused = CliRunner().invoke(app, ["report", str(copy)])
    assert refused.exit_code == 2
    assert "features has the shape" in refused.output
