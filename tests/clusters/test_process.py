"""The conformance tests of process, on clusters."""

from tests.conformance.test_process import *  # noqa: F403
