"""Kinds of potentials, the ensemble of them, and its training.

A kind is a light file here (its section and what is to be known of it before torch is loaded) and one in `networks`.
"""
