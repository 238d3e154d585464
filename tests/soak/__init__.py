"""The soak: calls of all kinds for a long time, after which everything is where it was.

figures     what processes hold: descriptors, mappings, addresses, threads, memory
load        the calls
run         `make soak`
"""
