"""The conformance tests of lifecycle, on clusters."""

from tests.conformance.test_lifecycle import *  # noqa: F403
