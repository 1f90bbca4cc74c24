"""Foundation potentials: trained on the whole periodic table, each in a process of its own; asked through `client`."""
