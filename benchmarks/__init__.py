"""Forklift measured beside the loop, the threads and the process pools that people use today."""
