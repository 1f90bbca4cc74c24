"""The run directory: layout, lock, stages published by one rename, provenance."""
