"""Powder patterns: computed by pymatgen, and compared with a measured one.

    fit = compared(measured, lines_for(measured, atoms, wavelength_of("CuKa")))
    fit.agreement, fit.zero, fit.scale

A computed pattern is moved before it is compared, as a diffractometer and DFT are both a little off: by a shift of the
zero (`ZERO`), by one factor for all lengths of the crystal (`SCALE`), and its lines are broadened (`WIDTHS`). What is
searched first, on a grid with both patterns blurred (`COARSE`), is refined by Nelder and Mead's method.

The agreement is the correlation of both patterns once a smooth background, a polynomial of degree `BACKGROUND`, is
taken out of both: 1 where they are the same but for background and scale, 0 where they have nothing in common. It is
what a least-squares fit of ``background + factor * computed`` leaves: the share of the measured intensity's variance,
beyond the background, that stays unexplained is 1 - agreement^2. Points are not weighted, so strong lines count most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from csp_al.cif import conventional
from csp_al.structures import Floats

if TYPE_CHECKING:
    from ase import Atoms

RADIATION: Final = "CuKa"
"""Unless another is named."""
COPPER: Final = 1.54184
"""Å, its wavelength. Where that is another, degrees below stand for as many more or fewer: for the same d."""
SCALE: Final = 0.04
"""Largest relative change of the lengths: PBE is off by 2% at most as a rule, LDA and classical potentials by more."""
ZERO: Final = 0.5
"""Degrees of 2θ, largest shift of the zero."""
WIDTHS: Final = (0.05, 1.0)
"""Degrees of 2θ, least and largest full width at half maximum of a Gaussian line."""
BACKGROUND: Final = 8
"""Degree of the polynomial."""
COARSE: Final = 0.4
"""Degrees of 2θ by which lines are broadened while the place of the best fit is looked for."""
PLACES: Final = 3
"""Of these that fit best a better fit is looked for nearby."""
STEP: Final = 0.02
"""Degrees of 2θ between points of a pattern that is computed alone; of one that is compared at least."""
WIDTH: Final = 0.15
"""Degrees of 2θ, full width at half maximum of lines of a pattern that is computed alone."""
ALONE: Final = (5.0, 90.0)
"""Degrees of 2θ, its range."""
SIGMAS: Final = 2 * np.sqrt(2 * np.log(2))
"""A full width at half maximum in standard deviations of a Gaussian."""


@dataclass(frozen=True)
class Lines:
    """Lines of a crystal: 2θ (n,) in degrees for the wavelength in Å, intensities (n,), the strongest 100, and hkl."""

    angles: Floats
    intensities: Floats
    hkl: list[str]
    wavelength: float


@dataclass(frozen=True)
class Pattern:
    """Intensities (n,) at angles 2θ (n,), in degrees, that ascend."""

    angles: Floats
    intensities: Floats


@dataclass(frozen=True)
class Fit:
    """How well a computed pattern agrees with a measured one, and how it was moved for that.

    Zero (degrees of 2θ) is what was added to computed angles, scale the factor of all lengths, width that of lines
    (degrees).
    """

    agreement: float
    zero: float
    scale: float
    width: float


def wavelength_of(name: str) -> float:
    """Å, by the name of a line, as CuKa, CuKa1 or MoKa, or as a number of Å. Raises ValueError."""
    from pymatgen.analysis.diffraction.xrd import WAVELENGTHS

    known = {known.lower(): value for known, value in WAVELENGTHS.items()}
    try:
        value = known[name.lower()] if name.lower() in known else float(name)
    except ValueError:
        value = np.nan
    if not 0.05 < value < 5:
        raise ValueError(f"--wavelength {name}: neither Å between 0.05 and 5 nor one of {', '.join(WAVELENGTHS)}")
    return float(value)


def lines_of(atoms: Atoms, wavelength: float, low: float, high: float) -> Lines:
    """Lines between these angles of the conventional cell with its symmetry. Raises ValueError for unknown elements."""
    from pymatgen.analysis.diffraction.xrd import XRDCalculator
    from pymatgen.io.ase import AseAtomsAdaptor

    structure = AseAtomsAdaptor.get_structure(conventional(atoms))
    try:
        found = XRDCalculator(wavelength).get_pattern(structure, two_theta_range=(low, high))
    except ValueError as error:
        if "scattering" in str(error):  # coefficients that pymatgen lacks
            raise
        return Lines(np.zeros(0), np.zeros(0), [], wavelength)  # it fails where no lattice plane reflects
    names = [" ".join(map(str, families[0]["hkl"])) for families in found.hkls]
    return Lines(np.asarray(found.x, float), np.asarray(found.y, float), names, wavelength)


def lines_for(measured: Pattern, atoms: Atoms, wavelength: float) -> Lines:
    """Lines of all angles that can come among the measured ones when the crystal is scaled and the zero shifted."""
    low, high = float(measured.angles[0]), float(measured.angles[-1])
    return lines_of(atoms, wavelength, max(0.0, 0.95 * low - 1), min(179.0, 1.1 * high + 1))


def pattern_of(lines: Lines) -> Pattern:
    """What a diffractometer would show: lines of `WIDTH`, the highest point 100."""
    angles = np.arange(ALONE[0], ALONE[1] + STEP / 2, STEP)
    profile = _profile(lines.angles, lines.intensities, angles, WIDTH)
    return Pattern(angles, 100 * profile / max(profile.max(), np.finfo(float).tiny))


def compared(measured: Pattern, lines: Lines) -> Fit:
    """The best fit of a crystal's lines, which reach beyond the measured range. The agreement of none is 0."""
    from scipy.ndimage import gaussian_filter1d
    from scipy.optimize import minimize

    unit = lines.wavelength / COPPER
    step = max(STEP * unit, float(np.median(np.diff(measured.angles))))
    angles = np.arange(measured.angles[0] + step / 2, measured.angles[-1], step)
    background, _ = np.linalg.qr(np.polynomial.chebyshev.chebvander(np.linspace(-1, 1, len(angles)), BACKGROUND))
    seen = _unit(_means(measured, angles, step), background)
    coarse = _unit(gaussian_filter1d(seen, COARSE * unit / SIGMAS / step), background)

    def agreement(of: Floats, scale: float, zero: float, width: float) -> float:
        return float(of @ _unit(_profile(_moved(lines, scale, zero), lines.intensities, angles, width), background))

    places = [
        (scale, zero) for scale in 1 + np.linspace(-SCALE, SCALE, 81) for zero in unit * np.linspace(-ZERO, ZERO, 11)
    ]
    rough = [agreement(coarse, *place, np.sqrt(2) * COARSE * unit) for place in places]
    bounds = ((-100 * SCALE, 100 * SCALE), (-unit * ZERO, unit * ZERO), (unit * WIDTHS[0], unit * WIDTHS[1]))
    best = Fit(0.0, 0.0, 1.0, unit * WIDTH)
    for row in np.argsort(rough)[::-1][:PLACES]:
        found = minimize(
            lambda at: -agreement(seen, 1 + at[0] / 100, at[1], at[2]),
            np.clip((100 * (places[row][0] - 1), places[row][1], unit * COARSE), *np.transpose(bounds)),
            method="Nelder-Mead",
            bounds=bounds,
        )
        if -found.fun > best.agreement:
            best = Fit(-float(found.fun), float(found.x[1]), 1 + float(found.x[0]) / 100, float(found.x[2]))
    return best


def _means(measured: Pattern, angles: Floats, step: float) -> Floats:
    """Of the measured intensity around each of these angles, (n,): finer points are not lost, nor sharper lines."""
    from scipy.integrate import cumulative_trapezoid

    until = cumulative_trapezoid(measured.intensities, measured.angles, initial=0.0)
    edges = np.append(angles - step / 2, angles[-1] + step / 2)
    means: Floats = np.diff(np.interp(edges, measured.angles, until)) / step
    return means


def _moved(lines: Lines, scale: float, zero: float) -> Floats:
    """Angles of lines of a crystal whose lengths are scaled; those that leave the sphere end at 180°."""
    sines = np.sin(np.radians(lines.angles / 2)) / scale
    return zero + 2 * np.degrees(np.arcsin(np.minimum(sines, 1.0)))


def _profile(places: Floats, heights: Floats, angles: Floats, width: float) -> Floats:
    """Gaussian lines at these places on a grid of equal steps, (n,)."""
    from scipy.ndimage import gaussian_filter1d

    step = angles[1] - angles[0]
    beyond = int(np.ceil(2 * width / step))  # lines just outside have tails inside
    at = (places - angles[0]) / step + beyond
    count = len(angles) + 2 * beyond
    inside = (at >= 0) & (at < count - 1)
    at, heights = at[inside], heights[inside]
    left = at.astype(int)
    grid = np.bincount(left, heights * (1 - at + left), count) + np.bincount(left + 1, heights * (at - left), count)
    profile: Floats = gaussian_filter1d(grid, width / SIGMAS / step, mode="constant")[beyond:-beyond]
    return profile


def _unit(intensities: Floats, background: Floats) -> Floats:
    """What of a pattern is no background, made of length 1; zeros where nothing is left."""
    rest = intensities - background @ (background.T @ intensities)
    length = float(np.linalg.norm(rest))
    result: Floats = rest / length if length > 1e-9 * float(np.linalg.norm(intensities)) else np.zeros_like(rest)
    return result
