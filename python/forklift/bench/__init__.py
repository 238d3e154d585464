"""Forklift beside the other pools that are installed: what `forklift bench` and `make bench` run."""
