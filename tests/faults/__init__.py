"""Deaths, signals, things that cannot be sent, bad arguments. Forklift only."""
