"""A storm for the tasks: everything is taken away at random, then a ledger is drawn up."""
