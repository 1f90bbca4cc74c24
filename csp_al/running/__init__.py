"""A campaign, checked against what is installed here, and one run of its driver: what command line and Python share."""
