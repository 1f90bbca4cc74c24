"""Figures of what each cycle did."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from csp_al import open_run
from csp_al.report import cycle_figures, figures
from csp_al.select.walk_forward import right_spread


@pytest.fixture(scope="module")
def cycles(finished_run):
    return open_run(finished_run).cycles


def test_errors_are_those_of_the_cycles_on_an_axis_that_shows_all(cycles):
    figure = cycle_figures.prediction_errors(cycles)
    for trace, column in zip(figure.data, ("energy_mae_mev_per_atom", "energy_apart_mev_per_atom"), strict=True):
        np.testing.assert_array_equal(trace.y, cycles[column])
    assert figure.layout.yaxis.type is None
    first = cycles.assign(energy_mae_mev_per_atom=[None, 9000.0, 10.0])
    assert cycle_figures.prediction_errors(first).layout.yaxis.type == "log"


def test_calibration_stands_beside_what_a_spread_of_so_few_members_should_cover(cycles):
    figure = cycle_figures.calibration(cycles, members=2)
    right = [right_spread(quantity, 2)[0] for quantity in ("energy", "forces", "stress")]
    assert [line.y0 for line in figure.layout.shapes] == right
    assert [line.line.color for line in figure.layout.shapes] == [trace.line.color for trace in figure.data]
    for trace in figure.data:
        np.testing.assert_array_equal(trace.y, cycles[f"{trace.name}_within_1_sigma"])


@pytest.mark.parametrize(("times", "unit", "length"), [(1, "s", 1), (1e3, "h", 3600)])
def test_costs_are_the_times_of_the_stages_in_a_unit_that_suits(cycles, times, unit, length):
    seconds = cycles.filter(like="seconds_")
    longest = 60 / seconds.sum(axis=1).max()  # s, so that the machine does not matter
    table = cycles.assign(**{name: times * longest * column for name, column in seconds.items()})
    figure = cycle_figures.costs(table)
    assert figure.layout.yaxis.title.text == f"Time ({unit})"
    assert {trace.name for trace in figure.data} == {"label", "train", "relax", "rank", "verdict", "select"}
    for trace in figure.data:
        np.testing.assert_allclose(trace.y, table[f"seconds_{trace.name}"] / length)


def test_the_colours_of_many_cycles_are_explained_by_a_bar():
    labels = pd.DataFrame({"cycle": np.repeat(np.arange(1, 21), 3), "id": 0, "energy_per_atom": np.linspace(0, 1, 60)})
    labels = labels.assign(predicted_energy_per_atom=labels["energy_per_atom"] + 0.1, predicted_sigma_per_atom=0.1)
    many, few = figures.parity(labels), figures.parity(labels[labels["cycle"] < 5])
    assert not any(trace.showlegend for trace in many.data)
    assert (many.data[-1].marker.cmin, many.data[-1].marker.cmax) == (1, 20)
    assert [trace.name for trace in few.data if trace.showlegend] == ["cycle 1", "cycle 2", "cycle 3", "cycle 4"]
    np.testing.assert_array_equal(many.data[1].marker.color, many.data[1].error_y.color)
