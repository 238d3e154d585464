"""Unit tests of the private Python modules: against the modules themselves, with real processes where two are meant."""
