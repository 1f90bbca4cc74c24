"""The ensemble of potentials and its training."""
