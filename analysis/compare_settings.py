# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Searches side by side
#
# Set `CSP_AL_RUNS` to the run directories, or a pattern of them, separated by spaces: the same composition with other
# seeds or other settings. Set `CSP_AL_BENCHMARK` to the `result.json` of `csp-al benchmark` to see that as well.

# %%
import json
import os
from pathlib import Path

import plotly.express as px

import csp_al
from csp_al.report import figures

runs = csp_al.open_runs(*os.environ.get("CSP_AL_RUNS", "runs/si4-seed-*").split())
found = runs.comparison

# %% [markdown]
# ## What is different?
#
# Settings that are the same in all runs are left out.

# %%
found.settings

# %% [markdown]
# ## What did each find, and what did it cost?

# %%
found.runs

# %% [markdown]
# ## Is it the same crystal?
#
# Crystals that are the same, by structure and energy, have one number; 1 is the lowest of all. Searches that all lead
# to number 1 support one another. One that lacks it stopped too soon, or was unlucky.

# %%
found.crystals

# %% [markdown]
# ## How soon?
#
# The lowest energy that the reference had said after so many evaluations. Lines that end level at different heights
# found different crystals.

# %%
cycles = runs.cycles
figure = px.line(
    cycles,
    x="reference_evaluations",
    y="best_labelled_energy_per_atom",
    color="run",
    markers=True,
    line_shape="hv",
    color_discrete_sequence=px.colors.qualitative.Safe,  # for the colour-blind
    template="simple_white",
    labels={
        "reference_evaluations": "reference evaluations",
        "best_labelled_energy_per_atom": "lowest label (eV/atom)",
    },
)
figure

# %% [markdown]
# ## And how well was it predicted?
#
# One parity plot for each run, all on the same reference.

# %%
for run in runs.runs[:4]:
    figures.parity(run.labels).update_layout(title=run.path.name).show()

# %% [markdown]
# ## A benchmark
#
# Found how often, after how many evaluations (medians), and what random search needs.

# %%
benchmark = os.environ.get("CSP_AL_BENCHMARK")
result = json.loads(Path(benchmark).read_text()) if benchmark else {"benchmark": "none was named"}
{key: value for key, value in result.items() if key not in ("curve", "trials")}
