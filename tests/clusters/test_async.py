"""The conformance tests of async, on clusters."""

from tests.conformance.test_async import *  # noqa: F403
