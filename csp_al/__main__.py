"""`python -m csp_al` is `csp-al`."""

from csp_al.cli import app

app(prog_name="csp-al")
