"""Which candidates are labelled next, and when the search is over."""

from csp_al.select.cluster import k_means
from csp_al.select.identity import basins, distinct, same_structure, times_reached
from csp_al.select.perturb import decay_amplitude, perturb
from csp_al.select.pick import pick
from csp_al.select.ranking import rank, representatives, rows_of
from csp_al.select.score import score
from csp_al.select.stopping import Judged, Missed, Rules, Spent, Top, unseen_share, verdict
from csp_al.select.walk_forward import walk_forward

__all__ = [
    "Judged",
    "Missed",
    "Rules",
    "Spent",
    "Top",
    "basins",
    "decay_amplitude",
    "distinct",
    "k_means",
    "perturb",
    "pick",
    "rank",
    "representatives",
    "rows_of",
    "same_structure",
    "score",
    "times_reached",
    "unseen_share",
    "verdict",
    "walk_forward",
]
