"""What forklift.Pool promises beyond multiprocessing.Pool. Forklift only."""
