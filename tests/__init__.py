"""The tests of the Python package. They know nothing of its inside: everything goes through what users import."""
