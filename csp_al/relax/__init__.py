"""Batched relaxation over atoms and cell, and why each one stopped."""
