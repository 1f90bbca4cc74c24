"""Tasks as directories, the worker that runs them, slots on this machine, and pilots in the jobs of a cluster."""
