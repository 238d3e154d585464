"""The same test functions, run against multiprocessing.Pool (the oracle) and forklift.Pool."""
