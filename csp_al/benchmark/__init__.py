"""How many reference evaluations a campaign saves: several seeds of it against random search on the same pools."""
