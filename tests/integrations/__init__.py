"""Forklift within the libraries that people know it through: each test has the real library."""
