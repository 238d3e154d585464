"""The conformance tests of surface, on clusters."""

from tests.conformance.test_surface import *  # noqa: F403
