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
# # A campaign, looked at
#
# Set `CSP_AL_RUN` to a run directory, or start a campaign with `csp-al run campaigns/si4.yaml` and leave it at
# the default. The run may be finished or still going: run the cells again to see it move on.

# %%
import os

import csp_al
from csp_al.report import figures
from csp_al.report.status import status
from csp_al.report.status_in_words import describe

path = os.environ.get("CSP_AL_RUN", "runs/si4")
run = csp_al.open_run(path)
print(describe(status(path)))

# %% [markdown]
# ## Did the search converge?
#
# The blue line is what the potential calls the best crystal after each cycle: once it stays level, more labels would
# change little. In early cycles it may lie far off, when the potential still believes in crystals that do not exist;
# energies far below any truth are written at the lower edge.
# The star, the best crystal relaxed by the reference method, is the truth: it should lie close to the end of the line.
# Grey squares are the lowest single points of the reference method, of structures that were not relaxed with it.

# %%
figures.convergence(run.cycles, run.results, run.reference_evaluations)

# %% [markdown]
# ## May the predictions be trusted?
#
# Every point was predicted before its label was known. From cycle to cycle the points should come closer to the grey
# line. Bars are 1 sigma, the spread of the ensemble: if they often miss the line, the potential is too sure of itself.
# Below, `..._within_1_sigma` would be 0.68 for energies if the spread were right and the ensemble large, 0.59 with five
# potentials, 0.52 with three; `csp_al.select.walk_forward.right_spread` has these, and those of forces and stress.
# `..._spread_factor` is what the spread would have to be multiplied by to cover 0.68.

# %%
figures.parity(run.labels)

# %%
run.cycles[
    [
        "cycle",
        "labels_done",
        "labels_failed",
        "energy_mae_mev_per_atom",
        "energy_within_1_sigma",
        "forces_within_1_sigma",
        "stress_within_1_sigma",
        "energy_spread_factor",
        "forces_spread_factor",
        "stress_spread_factor",
        "stable_cycles",
        "unseen",
    ]
]

# %% [markdown]
# ## Where did it look?
#
# Each point is a candidate as relaxed in the first and in the last cycle; neighbours look alike to the potential.
# Outlined ones have been labelled, ringed ones were picked next. Picks should reach every dark group of points: dark
# points in a group without an outline were ranked by a potential that has seen nothing like them.

# %%
figures.pool_map(run.pool_map(0))

# %%
figures.pool_map(run.pool_map())

# %% [markdown]
# ## Did the training go well?
#
# Both curves fall and level off in each cycle. Held-out labels that get worse while training improves mean that the
# potential learns by heart: more labels in a cycle help, or fewer features.

# %%
figures.learning_curves(run.learning_curves)

# %% [markdown]
# ## What came out?
#
# Distinct crystals, relaxed by the reference method, lowest first (energies in eV/atom). A crystal that many candidates
# reached (`times_reached`) lies in a wide basin; one that is not `converged` has forces left.

# %%
run.results

# %% [markdown]
# What that is worth: settled, extend, or not to be trusted, and why; nothing before the end.

# %%
print(run.judgement)

# %% [markdown]
# The pool as the potential ranks it, for crystals that did not make it into the results.

# %%
run.ranking().head(20)
