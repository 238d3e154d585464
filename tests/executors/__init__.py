"""The shapes of other libraries: `concurrent.futures`, and functions that keep their pool."""
