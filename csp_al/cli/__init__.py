"""The command line: parse, call, print; no science here."""

from csp_al.cli.app import app

__all__ = ["app"]
