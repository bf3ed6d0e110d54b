"""What a team means and how its runs proceed: compile, step machines, the ledger. Pure."""
