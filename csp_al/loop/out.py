"""Labels that are out while the loop goes on, so that no slot of a cluster waits for a training.

With ``select.in_flight`` a cycle learns from what has come in as soon as no more labels are out than that, and asks for
as many as came in. Which those are depends on how long each took, so that a stage keeps it: what came in, and what was
still out. A campaign that goes on from there asks for the same again. What is chosen next knows of labels that are out
where they stood, and not what they say. The search stops only when nothing is out.
"""

from __future__ import annotations

from csp_al.campaign import Campaign
from csp_al.engine.tasks import label_task
from csp_al.interfaces import Task
from csp_al.loop.progress import Progress
from csp_al.structures import Structures


def label_tasks(campaign: Campaign, structures: Structures) -> list[Task]:
    """Tasks that label these structures."""
    return [label_task(atoms, campaign.reference) for atoms in structures.to_atoms()]


def most_wanted(campaign: Campaign, progress: Progress) -> int:
    """How many labels a cycle would ask for: those of a cycle, and one for each that may be out and is not."""
    return campaign.select.per_cycle + max(0, campaign.select.in_flight - len(progress.out))


def wanted(campaign: Campaign, progress: Progress) -> int:
    """How many labels a cycle asks for, as far as the budget goes."""
    return min(most_wanted(campaign, progress), campaign.budget.labels - progress.asked - len(progress.out))


def may_be_out(campaign: Campaign, cycle: int, chosen: int) -> int:
    """Labels that a cycle that has ``chosen`` so many need not wait for: none in the last, or if nothing is chosen."""
    is_last = cycle + 1 >= campaign.stop.max_cycles
    return 0 if is_last or chosen == 0 else campaign.select.in_flight
