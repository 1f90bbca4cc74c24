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
# # A reference, a potential and candidates of your own
#
# Each is one Python file beside the campaign file. This notebook takes the three files of `tests/example_package`,
# tests that they keep their contracts, and runs a small campaign with them. Change one file at a time to make it yours.
# Set `CSP_AL_PARTS` to a folder that is to be kept; by default it is a temporary one.

# %%
import os
import shutil
import sys
import tempfile
from pathlib import Path

import csp_al
from csp_al.events import CycleJudged, Event
from csp_al.report import figures
from csp_al.testing import check_source

folder = Path(os.environ.get("CSP_AL_PARTS") or tempfile.mkdtemp())
example = Path("tests/example_package/csp_al_example")
if not example.exists():  # the notebook was opened in analysis/
    example = Path("..") / example
folder.mkdir(parents=True, exist_ok=True)
for name, mine in {"springs": "my_reference", "strained": "my_source", "potential": "my_potential"}.items():
    shutil.copyfile(example / f"{name}.py", folder / f"{mine}.py")

# %% [markdown]
# ## Candidates
#
# A source makes one candidate from a random stream; the same stream makes the same one. For a whole campaign this is
# all that has to be known of candidates:

# %%
print((folder / "my_source.py").read_text())

# %% [markdown]
# The contract tests of `csp_al.testing` say what is wrong with a part, before a campaign does. That of a reference and
# that of a potential are `check_reference` and `check_potential`.

# %%
sys.path.insert(0, str(folder))
check_source({"kind": "my_source.KIND", "share": 0.5, "strain": 0.1}, {"formula": "Al4"})

# %% [markdown]
# ## The campaign
#
# Import paths name the parts. The reference is a Morse potential, whose well the file says; the potential is effective
# medium theory, which learns a scale and a shift of its energies. So what learns is not what it learns from.

# %%
(folder / "own.yaml").write_text("""\
name: own
seed: 3
pool:
  formula: Al4
  size: 16
  volume_per_atom: [14, 22]  # Å^3
  sources: [{kind: my_source.KIND, share: 0.5, strain: 0.1}]
reference: {kind: my_reference.KIND, depth: 0.3, max_force: 10, max_fail_fraction: 0.9}
potential: {kind: my_potential.KIND, members: 3}
relax: {max_steps: 20}
select: {per_cycle: 5}
stop: {top_k: 2, max_cycles: 2}
finish: {max_steps: 20}
""")


def tell(event: Event) -> None:
    """Print what each cycle came to."""
    if isinstance(event, CycleJudged):
        print(f"cycle {event.cycle}: {event.labels} labels; {event.reason}")


run = csp_al.run(folder / "own.yaml", folder / "runs" / "own", on_event=tell)
run.results[["id", "energy_per_atom", "space_group_symbol", "volume_per_atom"]]

# %% [markdown]
# ## Does the potential know the reference?
#
# Every point was predicted before its label was known. Two numbers that are learnt do not make effective medium theory
# a Morse potential: points lie off the line, and by more than their bars. A potential of yours should do better.

# %%
figures.parity(run.labels)

# %% [markdown]
# ## How the search went

# %%
figures.convergence(run.cycles, run.results, run.reference_evaluations)

# %% [markdown]
# To have your parts by name (`kind: my_potential`), tell them in the `pyproject.toml` of a package, as that of
# `tests/example_package` does. Who continues such a run with `csp-al resume` is asked for `--trust`: parts are code.
