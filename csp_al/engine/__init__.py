"""Tasks as directories, the worker that runs them, and slots on this machine."""
