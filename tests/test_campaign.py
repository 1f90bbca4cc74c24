"""The campaign file: what is read, and what a user is told when it cannot be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ase.data import chemical_symbols
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from ruamel.yaml import YAML
from typer.testing import CliRunner

from csp_al.campaign import (
    Campaign,
    CampaignError,
    Pool,
    campaign_schema,
    campaign_template,
    conflicts,
    min_distances,
    open_campaign,
    read_campaign,
    species_counts,
    species_pairs,
)
from csp_al.campaign.models import Select
from csp_al.cli import app
from csp_al.kinds import REFERENCES, names

CAMPAIGNS = sorted((Path(__file__).parents[1] / "campaigns").glob("*.yaml"))

GOOD = """\
name: alumina
pool:
  formula: Al4O6
  min_distance: {Al-O: 1.5, O-O: 2.0}
  volume_per_atom: [7, 12]
reference:
  kind: ase
  calculator: some.module.Calculator
  parameters: {depth: 2, table: {1: "one"}}
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "campaign.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def error_of(path: Path) -> CampaignError:
    with pytest.raises(CampaignError) as caught:
        read_campaign(path)
    return caught.value


def problems_of(folder: Path, text: str | bytes) -> list[str]:
    """Every problem as line:col: key: message, checked to come with its source line and a caret below the column."""
    path = write(folder, text)
    error = error_of(path)
    said = []
    for problem in error.problems:
        head, source, caret = str(problem).split("\n")
        line, column = problem.location.line, problem.location.column
        assert source[2:] == path.read_text(encoding="utf-8", errors="replace").splitlines()[line - 1]
        assert caret.index("^") - 2 == column - 1
        assert str(problem) in str(error)
        said.append(head.removeprefix(f"{path}:"))
    return said


def test_elements_that_the_potential_has_no_number_for_are_refused(tmp_path):
    heavy = "name: lr\npool: {formula: Lr4}\nreference: {kind: gpaw}\n"
    (problem,) = problems_of(tmp_path, heavy)
    assert problem.startswith("2:17: pool.formula: the potential takes elements up to Es (99), not Lr")


def test_a_good_file_is_read_with_its_values_and_the_defaults_of_the_rest(tmp_path):
    campaign = read_campaign(write(tmp_path, GOOD))
    assert campaign.pool.min_distance == {"Al-O": 1.5, "O-O": 2.0}
    assert campaign.pool.volume_per_atom == (7, 12)
    assert campaign.reference.parameters == {"depth": 2, "table": {1: "one"}}
    assert campaign.relax == Campaign.model_fields["relax"].get_default(call_default_factory=True)


@pytest.mark.parametrize("path", CAMPAIGNS, ids=lambda path: path.stem)
def test_every_campaign_that_is_shipped_reads_and_bears_the_name_of_its_file(path):
    assert read_campaign(path).name == path.stem


def test_the_shipped_campaigns_are_those_of_the_readme():
    assert {path.stem for path in CAMPAIGNS} >= {"si4", "si8-tersoff", "al8-emt", "lj8"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("min_distance", "min_distances", "4:3: pool.min_distances: unknown key, did you mean min_distance?"),
        ("name: alumina", "name: a\nformula: Al", "2:1: formula: unknown key, did you mean pool.formula?"),
        ("name: alumina", "name: a\n3: 4", "2:1: [3]: unknown key; allowed: name, seed, pool, "),
        ("name: alumina\n", "", "1:1: name: missing"),
        ("name: alumina", "name: a b", '1:7: name: "a b" does not fit (name of the run directory: letters, digits'),
        ("name: alumina", f"name: {'a' * 101}", "1:7: name: "),
        ("  formula: Al4O6\n", "  size: 3\n", "2:1: pool.formula: missing (atoms per cell"),
        ("Al4O6", "Sj8", "3:12: pool.formula: 'Sj8': no element is called Sj, did you mean Si?"),
        ("Al4O6", "al4 o6", "3:12: pool.formula: 'al4 o6' is no chemical formula, did you mean Al4O6?"),
        ("Al4O6", "silicon8", "3:12: pool.formula: 'silicon8' is no chemical formula, did you mean Si8?"),
        ("Al4O6", "four", "3:12: pool.formula: 'four' is no chemical formula; write e.g. Si8"),
        ("Al4O6", "Cu4Au4+", "3:12: pool.formula: 'Cu4Au4+' is no chemical formula; cells have no charge: write the"),
        ("Al4O6", "SO4^2-", "3:12: pool.formula: 'SO4^2-' is no chemical formula; cells have no charge: write the"),
        ("Al4O6", "Al4+O6", "3:12: pool.formula: 'Al4+O6' is no chemical formula; write e.g. Si8"),
        ("Al4O6", "Al4O6.3H2O", "3:12: pool.formula: 'Al4O6.3H2O' is no chemical formula, did you mean Al4O6(H2O)3?"),
        ("Al4O6", "Al₄O₆", "3:12: pool.formula: 'Al₄O₆' is no chemical formula, did you mean Al4O6?"),
        ("Al4O6", "Al4O99999", "3:12: pool.formula: 100003 atoms in a cell; at most 10000 are taken"),
        ("Al4O6", "Al4O6\n  size: 1000000000", "4:9: pool.size: 1000000000 candidates of 10 atoms fit into no memory"),
        ("reference:", "potential: {cutoff: 1000}\nreference:", "6:21: potential.cutoff: a cutoff of 1000 Å gives"),
        ("reference:", "potential: {features: 1000000}\nreference:", "6:23: potential.features: weights of 6e+05 GB"),
        ("Al4O6", "Si0", "3:12: pool.formula: 'Si0' has a species without atoms"),
        ("Al4O6", "8", "3:12: pool.formula: text is expected, not 8"),
        ("Al-O: 1.5", "Al-Si: 1.5", "4:18: pool.min_distance.Al-Si: no pair of species of Al4O6; allowed: Al-Al, Al-O"),
        ("O-O: 2.0", "O-Al: 2.0", "4:29: pool.min_distance.O-Al: the pair is there already, the other way round"),
        ("Al-O: 1.5", "Al-O: -1.5", "4:24: pool.min_distance.Al-O: it must be above 0, not -1.5"),
        ("Al-O: 1.5", "5: 1.5", "4:18: pool.min_distance[5]: a key here must be text"),
        ("[7, 12]", "[12, 7]", "5:20: pool.volume_per_atom: the least value, 12, is above the most, 7; swap them"),
        ("[7, 12]", "[7]", "5:20: pool.volume_per_atom: two numbers are expected, not 1"),
        ("[7, 12]", "[7, 12, 20]", "5:20: pool.volume_per_atom: two numbers are expected, not 3"),
        ("[7, 12]", "[7, much]", '5:24: pool.volume_per_atom[1]: a number is expected, not "much"'),
        ("[7, 12]", "12", "5:20: pool.volume_per_atom: a list in [ ] is expected, not 12"),
        ("[7, 12]", "[7, .inf]", "5:24: pool.volume_per_atom[1]: a finite number is expected, not inf"),
        ("kind: ase", "kind: asse", "7:9: reference.kind: unknown word asse, did you mean ase?"),
        ("kind: ase", "# none", "6:1: reference.kind: missing; allowed: gpaw, espresso, vasp, ase"),
        ("some.module.Calculator", "EMT", "8:15: reference.calculator: 'EMT' is no import path; write module.name"),
        ("  calculator: some.module.Calculator\n", "", "6:1: reference.calculator: missing (import path"),
        ('{depth: 2, table: {1: "one"}}', "deep", "9:15: reference.parameters: keys with values are expected, not "),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_with_its_place_and_the_remedy(tmp_path, old, new, said):
    assert old in GOOD
    (problem,) = problems_of(tmp_path, GOOD.replace(old, new, 1))
    assert problem.startswith(said)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("seed: true", "10:7: seed: a whole number is expected, not true"),
        ("stop: {max_cycles: 99999999}", "10:20: stop.max_cycles: 1e+08 cycles; at most 1000000 are taken"),
        ("seed: -1", "10:7: seed: it must be at least 0, not -1"),
        ("seed: 1.5", "10:7: seed: a whole number is expected, not 1.5"),
        ('budget: {labels: "900"}', '10:18: budget.labels: a whole number is expected, not "900"'),
        ("relax:", "10:1: relax: keys with values are expected, not nothing"),
        ("relax: [1]", "10:8: relax: keys with values are expected, not a list"),
        ("potential: {kind: schne}", "10:19: potential.kind: unknown word schne, did you mean schnet?"),
        ("potential: {kind: leignn, polish: schnet}", "10:35: potential.polish: in this mode forces are the energy's"),
        (
            "potential: {kind: forcenet, polish: leignn}",
            "10:37: potential.polish: unknown word leignn; allowed: schnet, painn, so3net",
        ),
        ("potential: {kind: mace}", "10:19: potential.kind: unknown word mace; allowed: schnet, painn, so3net"),
        ("potential: {warm_start: 1}", "10:25: potential.warm_start: true or false is expected, not 1"),
        ("select: {noise_decay: 2}", "10:23: select.noise_decay: it must be at most 1, not 2"),
        ("name: again", "10:1: name: the key is there already, in line 1; remove one of them"),
        ("seed: !!python/object/apply:os.getcwd []", "10:7: seed: !!python/object/apply:os.getcwd: tags are not read"),
        ("seed: &here 1", "10:7: seed: &here: anchors are not read; remove it"),
        ("seed: *here", "10:7: seed: *here: aliases are not read; write the value out"),
    ],
)
def test_each_mistake_in_another_section_is_one_line_too(tmp_path, line, said):
    (problem,) = problems_of(tmp_path, GOOD + line + "\n")
    assert problem.startswith(said)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("select: {per_cycle: 1001}\n", "10:21: select.per_cycle: 1001 labels a cycle"),
        ("select: {per_cycle: 1}\n", "10:21: select.per_cycle: 1 label in the first cycle; an ensemble needs"),
        ("budget: {labels: 9}\n", "10:18: budget.labels: 9 labels in all"),
        ("select: {per_cycle: 200}\nbudget: {labels: 150}\n", "11:18: budget.labels: 150 labels in all"),
        ("potential: {cutoff: 1.9}\n", "10:21: potential.cutoff: a cutoff of 1.9 Å is within the least distance of"),
        ("potential: {kind: leignn, mode: direct}\nrelax: {energy_patience: 9}\n",
         "11:26: relax.energy_patience: forces of this potential are no gradient of its energy"),
    ],
)  # fmt: skip
def test_numbers_that_do_not_fit_together_are_found_at_the_one_that_the_file_gives(tmp_path, line, said):
    (problem,) = problems_of(tmp_path, GOOD + line)
    assert problem.startswith(said)


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ("formula: Si8, min_distance: {Si-Si: 4.2}, volume_per_atom: [15, 26]",
         "pool.min_distance.Si-Si: atoms 4.2 Å apart (Si-Si) take at least 52.4 Å^3/atom, volume_per_atom allows at"),
        ("formula: Si8, volume_per_atom: [1, 2]", "pool.volume_per_atom: atoms 1.55 Å apart (Si-Si) take at least"),
        ("formula: Al4O6, min_distance: {O-O: 3.2}, volume_per_atom: [9, 12]", "pool.min_distance.O-O: atoms 3.2 Å"),
        ("formula: Si8, lengths: [1, 1.4]", "pool.lengths: vectors of at most 1.4 Å leave an atom no 1.55 Å from its"),
        ("formula: Si8, lengths: [2, 4], volume_per_atom: [15, 26]", "pool.lengths: vectors of at most 4 Å span"),
        ("formula: Si8, angles: [120, 140]", "pool.angles: [120, 140]: the least must be below 120"),
        ("formula: Si8, angles: [60, 180]", "pool.angles: [60, 180]: the least must be below 120 and the most below"),
        ("formula: Si8, size: 0", "pool.size: no candidates; it must be above 0 where there are no seeds"),
        ("formula: Si8, size: 8", "pool.size: 10 labels a cycle (select.per_cycle) from 8 candidates (pool.size)"),
        ("formula: Si8, seeds: [none.cif]", "pool.seeds[0]: there is no file "),
    ],
)  # fmt: skip
def test_pools_that_nothing_can_fill_are_refused_with_the_numbers(tmp_path, pool, said):
    (problem,) = problems_of(tmp_path, f"name: a\npool: {{{pool}}}\nreference: {{kind: gpaw}}\n")
    assert problem.split(": ", 1)[1].startswith(said)


@pytest.mark.parametrize("distance", [3.32, 3.33])
def test_the_packing_limit_is_that_of_close_packed_spheres(tmp_path, distance):
    # ase.build.bulk("Al", "fcc", a) has neighbours at a/sqrt(2) and a^3/4 for each atom: 26 Å^3 at 3.326 Å
    text = (
        f"name: a\npool: {{formula: Si8, min_distance: {{Si-Si: {distance}}}, volume_per_atom: [15, 26]}}\n"
        "reference: {kind: gpaw}\n"
    )
    path = write(tmp_path, text)
    if distance < 3.326:
        assert read_campaign(path).pool.min_distance == {"Si-Si": distance}
    else:
        assert "take at least 26.1 Å^3/atom" in str(error_of(path))


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ("formula: Si8, min_distance: {Si-Si: 4.2}",
         "2:44: pool.min_distance.Si-Si: atoms 4.2 Å apart (Si-Si) take at least 52.4 Å^3/atom, the default volume"),
        ("formula: Al4O6, min_distance: {O-Al: 3.9, Al-Al: 4, O-O: 4.1}, volume_per_atom: [7, 12]",
         "2:45: pool.min_distance.O-Al: atoms 3.9 Å apart"),
        ("formula: Si8, lengths: [1, 1.4]", "2:31: pool.lengths: vectors of at most 1.4 Å leave an atom no"),
    ],
)  # fmt: skip
def test_what_no_cell_can_meet_is_said_at_the_bound_that_the_file_gives(tmp_path, pool, said):
    problems = problems_of(tmp_path, f"name: a\npool: {{{pool}}}\nreference: {{kind: gpaw}}\n")
    assert any(problem.startswith(said) for problem in problems), problems


def test_a_formula_of_every_element_is_judged_in_bounded_time():
    assert not conflicts(Pool(formula="".join(chemical_symbols[1:97])))


def test_seeds_are_looked_for_beside_the_campaign_file(tmp_path):
    (tmp_path / "one.cif").touch()
    path = write(tmp_path, "name: a\npool: {formula: Si8, seeds: [one.cif]}\nreference: {kind: gpaw}\n")
    assert read_campaign(path).pool.seeds == ("one.cif",)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("kind: gpaw, encut: 400", "reference.encut: unknown key; here it is cutoff, in eV"),
        ("kind: gpaw, kpts: [4, 4, 4]", "reference.kpts: unknown key; here it is kspacing, the largest distance"),
        ("kind: espresso, encut: 400", "reference.encut: unknown key; here it is ecutwfc, in Ry (1 Ry is 13.6057 eV)"),
        ("kind: gpaw, ispin: 2", "reference.ispin: unknown key; an INCAR is that of kind: vasp"),
        ("kind: ase, calculator: a.B, kpts: [4, 4, 4]", "reference.kpts: unknown key; keywords of the calculator"),
        ("kind: ase, calculator: a.B, ecutwfc: 40", "reference.ecutwfc: unknown key; keywords of the calculator"),
    ],
)
def test_keys_of_other_codes_are_answered_with_the_one_that_is_meant(tmp_path, section, said):
    (problem,) = problems_of(tmp_path, f"name: a\npool: {{formula: Si8}}\nreference: {{{section}}}\n")
    assert problem.split(": ", 1)[1].startswith(said)


def test_all_errors_are_told_at_once_in_the_order_of_the_file(tmp_path):
    text = (
        "name: a b\nsed: 1\npool: {formula: Sj8, size: -1}\npool: 3\nreference: {kind: gpaw, cutof: 300}\n"
        "potential: {members: 1, features: many}\nstop: {top_k: 0}\nbudget: {labels: 5}\n"
    )
    said = problems_of(tmp_path, text)
    assert [problem.split(": ")[0:2] for problem in said] == [
        ["1:7", "name"], ["2:1", "sed"], ["3:17", "pool.formula"], ["3:28", "pool.size"], ["4:1", "pool"],
        ["5:25", "reference.cutof"], ["6:22", "potential.members"], ["6:35", "potential.features"],
        ["7:15", "stop.top_k"], ["8:18", "budget.labels"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1:1: empty; `csp-al init` writes"),
        ("# nothing\n", "1:1: empty; `csp-al init` writes"),
        ("- a\n- b\n", "1:1: no keys and values; `csp-al init`"),
        ("name: a\n\tpool: 1\n", "2:1: no YAML from here on: a tab; indent with spaces"),
        ("name: a\n pool: 1\n", "2:6: no YAML from here on: a ':' cannot stand here"),
        ("name: [a\npool: 1\n", "2:5: no YAML from here on: the list is not closed"),
        ("name: 'a\n", "2:1: no YAML from here on: the quotes are not closed"),
        ("name: a\n? [b]\n: c\n", "2:3: a key must be a word"),
        ("name: a\n---\nname: b\n", "2:1: a second document begins"),
        ("name: a\nx: " + "[" * 30 + "]" * 30, "2:24: nested more than 20 levels deep"),
        (b"name: a\nx: le \xe9\n", "2:7: byte 0xe9 is not UTF-8"),
    ],
)
def test_what_is_no_campaign_file_at_all_is_one_line_at_the_place_where_it_ends(tmp_path, text, said):
    path = write(tmp_path, text)
    (problem,) = error_of(path).problems
    assert str(problem).removeprefix(f"{path}:").startswith(said)


@pytest.mark.parametrize(
    "bomb",
    [
        "a: &a [x, x]\n" + "\n".join(f"a{i}: &a{i} [*a, *a]" for i in range(30)),
        "[" * 2**20,
        "\n".join(f"key{row}: 1" for row in range(30_000)),
        "#" * (2**20 + 1),
        "seed: " + "9" * 10_000,
    ],
    ids=["aliases", "depth", "values", "bytes", "digits"],
)
def test_files_made_to_exhaust_the_reader_are_refused(tmp_path, bomb):
    message = str(error_of(write(tmp_path, bomb)))
    assert "campaign.yaml" in message
    assert len(message) < 30_000


def test_files_that_cannot_be_opened_are_errors_with_a_hint(tmp_path):
    path = write(tmp_path, GOOD)
    assert str(error_of(tmp_path / "campaigns.yaml")).endswith("no such file, did you mean campaign.yaml?")
    assert str(error_of(tmp_path / "else" / "x.yaml")).endswith("no such file; `csp-al init` writes one")
    assert str(error_of(tmp_path)).endswith(f"a folder; name the campaign file in it, did you mean {path}?")
    assert "cannot be read" in str(error_of(tmp_path / "a\0b"))
    assert "cannot be read" in str(error_of(tmp_path / ("a" * 300)))


def test_what_is_found_later_is_told_at_the_place_of_the_key(tmp_path):
    path = write(tmp_path, GOOD)
    file = open_campaign(path)
    assert str(file.locate(("reference", "calculator"))) == f"{path}:8:15"
    assert str(file.locate(("reference", "time_limit"))) == f"{path}:6:1"  # a default: where it would be set
    assert str(file.locate(("relax", "fmax"))) == f"{path}:1:1"
    assert str(file.error(("reference", "calculator"), "no module 'some'")).split("\n") == [
        f"{path}:8:15: reference.calculator: no module 'some'",
        "    calculator: some.module.Calculator",
        "                ^",
    ]


def test_scalars_are_those_of_yaml_1_2(tmp_path):
    text = (
        "{a: no, b: 1_000, c: 0o17, d: 0x1F, e: 1e-3, f: -.5, g: 2020-01-01, h: ~, i: '5', j: 007, k: True, l: -.INF}"
    )
    ours = read_campaign(write(tmp_path, GOOD.replace('{depth: 2, table: {1: "one"}}', text))).reference.parameters
    assert ours == {
        "a": "no", "b": "1_000", "c": 15, "d": 31, "e": 1e-3, "f": -0.5, "g": "2020-01-01", "h": None, "i": "5", "j": 7,
        "k": True, "l": float("-inf"),
    }  # fmt: skip
    theirs = YAML(typ="safe", pure=True).load(text)
    assert {key for key in ours if ours[key] != theirs[key]} == {"b", "g"}  # ruamel goes beyond 1.2 in these two


def test_long_lines_are_cut_around_the_caret_and_control_characters_are_not_printed(tmp_path):
    path = write(
        tmp_path, f"name: a\npool: {{formula: Si8, seeds: [{'x' * 500}], sizes: 3}}\nreference: {{kind: gpaw}}\n"
    )
    (problem,) = error_of(path).problems
    _, source, caret = str(problem).split("\n")
    assert len(source) < 150
    assert source[caret.index("^") :].startswith("sizes: 3")
    text = str(error_of(write(tmp_path, 'name: "\\e[31m\\ud800"\n"\\e[2J": 1\n')))
    assert text.encode()
    assert "\x1b" not in text


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@example(data=None)
def test_no_damage_to_a_file_ends_in_anything_but_an_answer(tmp_path, data):
    text = GOOD.encode()
    if data is not None:
        for _ in range(data.draw(st.integers(1, 5), "mutations")):
            text = data.draw(damaged(text), "text")
    path = write(tmp_path, text)
    lines = text.count(b"\n") + text.count(b"\r") + 1
    try:
        read_campaign(path)
    except CampaignError as caught:
        error = caught
    else:
        return
    assert error.problems
    for problem in error.problems:
        assert re.match(rf"{re.escape(str(path))}:[1-9]\d*:[1-9]\d*: .", str(problem))
        assert problem.location.line <= lines
    assert str(error).encode()


RUNNABLE = """\
name: al4
seed: 1
pool: {formula: Al4, size: 10, volume_per_atom: [13, 23], min_distance: {Al-Al: 2.2}}
labels: []
reference: {kind: ase, calculator: ase.calculators.emt.EMT, parameters: {}, time_limit: 60}
potential: {kind: schnet, members: 2, features: 8, interactions: 1, cutoff: 4.0}
select: {per_cycle: 4, clusters: 4}
stop: {top_k: 1, max_cycles: 1}
budget: {labels: 8, hours: null}
"""


@pytest.mark.long
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_fifteen_hundred_damaged_files_end_with_status_0_or_2_and_a_line(tmp_path, data):
    text = RUNNABLE.encode()
    for _ in range(data.draw(st.integers(1, 4), "mutations")):
        text = data.draw(damaged(text), "text")
    path = write(tmp_path, text)
    ended = CliRunner().invoke(app, ["validate", str(path)])
    assert ended.exit_code in (0, 2)
    assert ended.exception is None or isinstance(ended.exception, SystemExit)
    assert "Traceback" not in ended.output
    if ended.exit_code == 2:
        assert re.match(rf"{re.escape(str(path))}:[1-9]\d*:[1-9]\d*: .", ended.output), ended.output


def damaged(text: bytes) -> st.SearchStrategy[bytes]:
    """The text with bytes changed or inserted, a stretch deleted, or a line doubled."""
    place = st.integers(0, len(text))
    syntax = st.sampled_from([bytes([byte]) for byte in b"\t\n\r\0 :-[]{}&*!|>'\"%@`#,?\\~<.019eE"])
    inserted = st.one_of(syntax, st.binary(min_size=1, max_size=3))
    flipped = st.builds(lambda at, new: text[:at] + new + text[at + len(new) :], place, inserted)
    added = st.builds(lambda at, new: text[:at] + new + text[at:], place, inserted)
    deleted = st.builds(lambda at, length: text[:at] + text[at + length :], place, st.integers(1, 20))
    return st.one_of(flipped, added, deleted, st.builds(doubled, st.just(text), st.integers(0, 20), st.integers(0, 20)))


def doubled(text: bytes, line: int, before: int) -> bytes:
    lines = text.split(b"\n")
    return b"\n".join([*lines[:before], lines[line % len(lines)], *lines[before:]])


@pytest.mark.parametrize("reference", names(REFERENCES))
def test_the_template_reads_back_as_the_defaults_and_shows_each_of_them(tmp_path, reference):
    text = campaign_template("si8", "Si8", reference)
    campaign = read_campaign(write(tmp_path, text))
    needed = {"kind": reference}
    if reference == "ase":
        needed["calculator"] = campaign.reference.calculator
    assert campaign == Campaign.model_validate({"name": "si8", "pool": {"formula": "Si8"}, "reference": needed})
    live = YAML(typ="safe", pure=True).load(text)
    assert live == json.loads(campaign.model_dump_json())
    assert max(map(len, text.splitlines())) <= 120


def test_every_key_of_the_template_has_its_meaning(tmp_path):
    text = " ".join(line.strip(" #") for line in re.sub(r"\n +#", "", campaign_template("a", "Si2", "ase")).split("\n"))
    file = open_campaign(write(tmp_path, campaign_template("a", "Si2", "ase")))
    for name, field in Campaign.model_fields.items():
        value = getattr(file.campaign, name)
        fields = type(value).model_fields if hasattr(type(value), "model_fields") else {name: field}
        for key, inner in fields.items():
            assert key == "kind" or inner.description in text


def test_a_template_that_could_not_be_read_is_refused_in_plain_words():
    with pytest.raises(ValueError, match=r"^pool.formula: 'Sj8': no element is called Sj, did you mean Si\?$"):
        campaign_template("a", "Sj8", "gpaw")
    with pytest.raises(ValueError, match=r'^name: "a b" does not fit'):
        campaign_template("a b", "Si8", "gpaw")
    with pytest.raises(ValueError, match=r"no reference is called 'castep'; allowed: gpaw, espresso, vasp, ase"):
        campaign_template("a", "Si8", "castep")


def test_the_schema_is_valid_and_accepts_what_the_reader_accepts(tmp_path):
    schema = campaign_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for path in [*CAMPAIGNS, write(tmp_path, GOOD.replace("1: ", '"1": '))]:
        assert list(validator.iter_errors(YAML(typ="safe", pure=True).load(path))) == []


@pytest.mark.parametrize(
    "change", [{"sizes": 3}, {"name": "a b"}, {"reference": {}}, {"pool": {}}, {"relax": {"fmax": 0}}, {"seed": "x"}]
)
def test_the_schema_refuses_what_the_reader_refuses(change):
    campaign = {"name": "a", "pool": {"formula": "Si8"}, "reference": {"kind": "gpaw"}} | change
    assert not Draft202012Validator(campaign_schema()).is_valid(campaign)
    with pytest.raises(ValidationError):
        Campaign.model_validate(campaign)


def test_the_schema_describes_every_key():
    schema = campaign_schema()
    sections = [schema, *schema["$defs"].values()]
    keys = [(name, key) for section in sections for name, key in section["properties"].items()]
    assert [name for name, key in keys if not ({"description", "$ref", "oneOf", "const"} & set(key))] == []
    assert all(section["additionalProperties"] is False and section["description"] for section in sections)


def test_a_resolved_campaign_survives_json():
    for path in CAMPAIGNS:
        campaign = read_campaign(path)
        assert Campaign.model_validate_json(campaign.model_dump_json()) == campaign


@pytest.mark.parametrize(("select", "groups"), [({}, 14), ({"clusters": 3}, 3)])
def test_there_are_twice_as_many_clusters_as_labels_unless_the_file_says_otherwise(select, groups):
    assert Select.model_validate(select).groups(7) == groups


def test_formulas_are_counted_and_paired_in_their_order():
    assert species_counts("(Al2O3)2") == species_counts("2Al2O3") == {"Al": 4, "O": 6}
    assert species_counts("((Si2)O)2Si") == {"Si": 5, "O": 2}
    assert species_pairs("Al4O6") == ["Al-Al", "Al-O", "O-O"]
    assert species_pairs("O6Al4") == ["O-O", "O-Al", "Al-Al"]


def test_distances_are_those_given_in_either_order_and_else_of_the_covalent_radii():
    # covalent radii of Cordero et al. (2008): Al 1.21, O 0.66 Å
    distances = min_distances(Pool(formula="Al4O6", min_distance={"O-Al": 1.6}))
    assert distances == pytest.approx({"Al-Al": 0.7 * 2.42, "Al-O": 1.6, "O-O": 0.7 * 1.32})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init", "none/a.yaml", "--formula", "Si8"], "none/a.yaml: there is no folder none; make it first"),
        (["status", "a.yaml/run"], "a.yaml/run: no run directory"),
        (["results", "none", "--json", "--csv"], "--json and --csv: give one of them"),
        (["run", "a.yaml", "--directory", "a.yaml/run"], "a.yaml/run: Not a directory"),
    ],
)
def test_paths_and_options_that_lead_nowhere_are_told_without_numbers_of_the_system(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(
        "name: a\npool: {formula: Al4, size: 10}\nreference: {kind: ase, calculator: ase.calculators.emt.EMT}\n"
    )
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 2
    assert ended.output.startswith(said)
    assert "Errno" not in ended.output
