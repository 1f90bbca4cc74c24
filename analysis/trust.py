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
# # May this result be believed?
#
# Set `CSP_AL_RUN` to a run directory. The run should be finished; of one that is still going there is no judgement yet.

# %%
import os

import csp_al
from csp_al.report import cycle_figures, figures

run = csp_al.open_run(os.environ.get("CSP_AL_RUN", "runs/si4"))
print(run.judgement)

# %% [markdown]
# ## Why did the search stop?
#
# A search is settled when its lowest crystals stayed the same after a challenge: labels of candidates that are least
# like what was labelled, whatever their scores. `unseen` is the chance that one more candidate would reach a crystal
# that none has reached yet (Good-Turing). A large one asks for more candidates.

# %%
verdict = run.verdict()
print(verdict.reason if verdict else "not judged yet")
run.cycles[["cycle", "labels_done", "stable_cycles", "unseen", "best_predicted_energy_per_atom"]]

# %% [markdown]
# ## Were labels predicted before they were known?
#
# Each point was predicted before its label was known. Errors should fall from cycle to cycle. What counts in the end is
# how they compare with what separates the lowest crystals: predictions that are off by 10 meV/atom cannot order two
# crystals that differ by 3. That is why the winners are relaxed by the reference.

# %%
figures.parity(run.labels)

# %%
cycle_figures.prediction_errors(run.cycles)

# %% [markdown]
# ## Does the ensemble know what it does not know?
#
# The dotted lines are the shares that a spread that is right would have. Below them, the ensemble is too sure of
# itself: multiply its sigma by `..._spread_factor`. Above them, it is too modest, which costs time and no truth.

# %%
members = getattr(run.campaign.potential, "members", 3)
cycle_figures.calibration(run.cycles, members)

# %% [markdown]
# ## Where is it blind?
#
# Dark points without an outline are low crystals of a kind that no label has seen. The labels that were furthest off
# are the crystals it knew least.

# %%
figures.pool_map(run.pool_map())

# %%
labels = run.labels.dropna(subset=["predicted_energy_per_atom"])
off = labels["energy_per_atom"] - labels["predicted_energy_per_atom"]
shown = ["cycle", "id", "energy_per_atom", "predicted_energy_per_atom", "predicted_sigma_per_atom"]
labels.assign(off=off).loc[off.abs().sort_values(ascending=False).index, [*shown, "off"]].head(10)

# %% [markdown]
# ## Would another search find the same?
#
# Nothing tells more than a second search with another seed: `csp-al run FILE --seed 2`, then
# `analysis/compare_settings.py`. How many candidates reached each winner says
# how easily it is found:

# %%
run.results[["id", "energy_per_atom", "space_group_symbol", "times_reached", "converged"]]
