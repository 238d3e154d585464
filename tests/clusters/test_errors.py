"""The conformance tests of errors, on clusters."""

from tests.conformance.test_errors import *  # noqa: F403
