"""The decisions: data in, data out. Nothing here awaits, reads a clock, logs, draws random numbers or knows a client."""
