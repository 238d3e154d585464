"""The conformance tests of threads, on clusters."""

from tests.conformance.test_threads import *  # noqa: F403
