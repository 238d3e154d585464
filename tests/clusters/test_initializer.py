"""The conformance tests of initializer, on clusters."""

from tests.conformance.test_initializer import *  # noqa: F403
