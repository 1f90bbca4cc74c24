"""Direct relaxers: networks that learn from pairs of unrelaxed and relaxed crystals where atoms come to rest.

They ask no energy, and follow no path: one pass gives the relaxed crystal, for a potential or the reference to finish.
"""

# threads that wait for each other must not spin: see there
import csp_al.potential as _  # noqa: F401
