"""The conformance tests of maps, on clusters."""

from tests.conformance.test_map import *  # noqa: F403
