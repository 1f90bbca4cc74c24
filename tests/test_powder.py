"""Powder patterns, computed and compared with measured ones."""

from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk
from titania import titania

from csp_al.report.details import with_agreement
from csp_al.report.measured import read_measured
from csp_al.report.powder import (
    ALONE,
    SCALE,
    WIDTH,
    ZERO,
    Pattern,
    compared,
    lines_for,
    lines_of,
    pattern_of,
    wavelength_of,
)

COPPER = wavelength_of("CuKa")
DFT = {"rutile": 1.012, "anatase": 1.018, "brookite": 1.015, "columbite": 0.988, "baddeleyite": 1.01}
"""Lengths of what a campaign found, beside the measured ones."""


def measured(atoms, zero=0.15, width=0.25, wavelength=COPPER, scale=3000.0, seed=0):
    """Counts as a diffractometer gives them: Gaussian lines above a falling background and a hump, with noise."""
    lines = lines_of(atoms, wavelength, 2, 120)
    angles = np.arange(15, 80, 0.03)
    apart = (angles[:, None] - lines.angles - zero) / (width / 2.3548)
    counts = np.exp(-(apart**2) / 2) @ lines.intensities
    background = 600 * np.exp(-angles / 20) + 60 + 40 * np.exp(-(((angles - 25) / 9) ** 2))
    counts = scale * counts / counts.max() + background
    return Pattern(angles, np.random.default_rng(seed).poisson(counts).astype(float))


def run_of(crystals):
    """A run that found these crystals, by name, the lowest first."""
    rows = [{"rank": row + 1, "id": row, "name": name, "formula": "TiO2"} for row, name in enumerate(crystals)]
    for row, atoms in enumerate(crystals.values()):
        atoms.info["id"] = row
    return SimpleNamespace(result_rows=rows, winners=list(crystals.values()), path=None)


@pytest.fixture
def found():
    """What a search for TiO2 would have found: the measured crystals with cells that are off as DFT's are."""
    return {name: titania(name, DFT[name]) for name in ("anatase", "brookite", "columbite", "rutile", "baddeleyite")}


@pytest.mark.parametrize(
    ("name", "zero", "counts"),
    [("rutile", 0.15, 3000), ("rutile", -0.4, 100), ("anatase", -0.2, 3000), ("brookite", 0.3, 300)],
)
def test_a_measured_pattern_finds_its_crystal_whatever_the_energies(found, name, zero, counts):
    run = run_of(found)
    rows = with_agreement(run, run.result_rows, measured(titania(name), zero, scale=counts), COPPER)
    assert [row["xrd"]["rank"] for row in rows] == [1, 2, 3, 4, 5]
    best, second = (row["xrd"] for row in rows[:2])
    assert rows[0]["name"] == name
    assert best["agreement"] > second["agreement"] + 0.15
    assert best["zero"] == pytest.approx(zero, abs=0.03)
    assert best["scale"] == pytest.approx(1 / DFT[name], abs=0.001)
    assert best["width"] == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("name", ["rutile", "anatase", "brookite"])
def test_a_cell_that_is_off_by_more_along_two_axes_is_found_as_well(found, name):
    strained = titania(name)
    strained.set_cell(strained.cell.array * [[1.015], [1.015], [1.0]], scale_atoms=True)
    run = run_of(found | {name: strained})
    assert with_agreement(run, run.result_rows, measured(titania(name)), COPPER)[0]["name"] == name


def test_agreement_is_the_correlation_that_a_least_squares_fit_leaves():
    pattern = measured(titania("rutile"), zero=0.0)
    fit = compared(pattern, lines_for(pattern, titania("anatase"), COPPER))
    scaled = titania("anatase", fit.scale)
    lines = lines_of(scaled, COPPER, 2, 120)
    apart = (pattern.angles[:, None] - lines.angles - fit.zero) / (fit.width / 2.3548)
    computed = np.exp(-(apart**2) / 2) @ lines.intensities
    powers = np.polynomial.chebyshev.chebvander(np.linspace(-1, 1, len(computed)), 8)
    alone = np.linalg.lstsq(powers, pattern.intensities)[1][0]
    both = np.linalg.lstsq(np.column_stack([powers, computed]), pattern.intensities)[1][0]
    assert 1 - fit.agreement**2 == pytest.approx(both / alone, abs=0.01)


def test_agreement_knows_neither_background_nor_scale_of_the_intensities():
    pattern = measured(titania("rutile"))
    lines = lines_for(pattern, titania("rutile"), COPPER)
    more = Pattern(pattern.angles, 0.01 * pattern.intensities + 5 - 0.03 * pattern.angles)
    assert compared(more, lines).agreement == pytest.approx(compared(pattern, lines).agreement, abs=1e-4)
    assert compared(pattern, lines).agreement > 0.98


def test_what_is_off_by_more_than_is_fitted_does_not_agree():
    pattern = measured(titania("rutile"), zero=0.0)
    within, beyond = (
        compared(pattern, lines_for(pattern, titania("rutile", 1 + strain), COPPER))
        for strain in (0.9 * SCALE, 2.5 * SCALE)
    )
    assert within.agreement > 0.98
    assert beyond.agreement < 0.6
    assert abs(beyond.zero) <= ZERO


def test_a_pattern_shows_the_lines_of_the_crystal_at_their_places():
    lines = lines_of(bulk("Al"), COPPER, *ALONE)
    pattern = pattern_of(lines)
    assert lines.hkl[:3] == ["1 1 1", "2 0 0", "2 2 0"]
    for angle, (h, k, l) in zip(lines.angles, [(1, 1, 1), (2, 0, 0), (2, 2, 0)], strict=False):  # noqa: E741
        spacing = 4.05 / np.sqrt(h**2 + k**2 + l**2)
        assert angle == pytest.approx(2 * np.degrees(np.arcsin(COPPER / 2 / spacing)), abs=1e-6)
    apart = (pattern.angles[:, None] - lines.angles) / (WIDTH / 2.3548)
    expected = np.exp(-(apart**2) / 2) @ lines.intensities
    np.testing.assert_allclose(pattern.intensities, 100 * expected / expected.max(), atol=2)


def test_wavelengths_have_names_in_any_case_or_are_lengths():
    assert wavelength_of("cuka1") == pytest.approx(1.54056)
    assert wavelength_of("0.4") == pytest.approx(0.4)
    pattern = measured(titania("rutile"), wavelength=wavelength_of("MoKa"))
    assert compared(pattern, lines_for(pattern, titania("rutile"), wavelength_of("MoKa"))).agreement > 0.95
    assert compared(pattern, lines_for(pattern, titania("rutile"), COPPER)).agreement < 0.5
    for wrong in ("CuKq", "0", "15.4", "nan"):
        with pytest.raises(ValueError, match=f"--wavelength {wrong}: neither Å between 0.05 and 5 nor one of CuKa"):
            wavelength_of(wrong)


def test_sharp_lines_of_a_synchrotron_are_compared_as_well(found):
    lines = lines_of(titania("anatase"), 0.4, 1, 30)
    angles = np.arange(4, 25, 0.002)
    apart = (angles[:, None] - lines.angles - 0.01) / (0.012 / 2.3548)
    counts = np.random.default_rng(0).poisson(1000 * np.exp(-(apart**2) / 2) @ lines.intensities + 500).astype(float)
    run = run_of(found)
    told = with_agreement(run, run.result_rows, Pattern(angles, counts), 0.4)
    assert told[0]["name"] == "anatase"
    assert told[0]["xrd"]["agreement"] > 0.95 > told[1]["xrd"]["agreement"] + 0.3
    assert told[0]["xrd"]["zero"] == pytest.approx(0.01, abs=0.003)


def rows(form="{x:.2f} {y:.1f}", count=100):
    return [form.format(x=10 + 0.1 * n, y=5.0 + n % 7) for n in range(count)]


@pytest.mark.parametrize(
    "lines",
    [
        rows(),
        ["# a comment", "Angle  Counts", "10 steps", *rows("{x:.2f}\t{y:.1f}")[:50], "! another", *rows()[50:], ""],
        ["[Data]", "2Theta, Intensity, Error", *rows("{x:.2f}, {y:.1f}, 0.3")],
        rows("{x:.2f},{y:.1f}"),
        [line.replace(".", ",") for line in rows("{x:.2f};{y:.1f}")],
        [line.replace(".", ",") for line in rows("  {x:.2f}   {y:.1f}")],
        list(reversed(rows("{x:.2e} {y:.1e} 7"))),
    ],
)
def test_two_columns_are_read_however_they_are_separated(tmp_path, lines):
    file = tmp_path / "measured.xy"
    file.write_bytes("\r\n".join(lines).encode("latin-1"))
    pattern = read_measured(file)
    np.testing.assert_allclose(pattern.angles, 10 + 0.1 * np.arange(100), atol=0.06)
    np.testing.assert_allclose(pattern.intensities, 5.0 + np.arange(100) % 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a text\nabout diffraction\n", "0 lines with two numbers, 2θ and intensity; a pattern has 50 or more"),
        ("<xrdMeasurements/>", "writes two columns"),
        ("\n".join(rows(count=20)), "20 lines with two numbers"),
        ("\n".join([*rows(), "the end"]), "line 101: two numbers are expected, 2θ and intensity, not 'the end'"),
        ("\n".join(rows("{x:.2f} nan")), "numbers that are not finite"),
        ("\n".join(rows("{y:.1f} {x:.2f}")), "7 different angles, so a list of peaks"),
        ("\n".join(f"{n} 5" for n in range(10, 100)), "steps of 1° in 2θ, so a list of peaks, or too coarse"),
        ("\n".join(f"{3 * n} 5" for n in range(100)), "angles from 0 to 297, where 2θ in degrees is expected first"),
        ("\n".join(rows("{x:.2f} 3")), "all intensities are equal"),
    ],
)
def test_what_is_no_pattern_is_said_in_one_line(tmp_path, text, message):
    (tmp_path / "m.xy").write_text(text)
    with pytest.raises(ValueError, match=r"m\.xy: ") as raised:
        read_measured(tmp_path / "m.xy")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_pattern_among_whose_angles_no_line_lies_is_refused(found):
    angles = np.arange(1, 5, 0.02)
    pattern = Pattern(angles, np.random.default_rng(0).random(len(angles)))
    run = run_of(found)
    with pytest.raises(ValueError, match=r"no crystal has a line between 1 and 4\.98° at 1\.54184 Å"):
        with_agreement(run, run.result_rows, pattern, COPPER)
