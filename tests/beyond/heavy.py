"""A module that takes 64 MB when it is imported."""

BULK = bytearray(b"x") * (64 << 20)
