"""The conformance tests of imap, on clusters."""

from tests.conformance.test_imap import *  # noqa: F403
