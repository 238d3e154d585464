"""How pools end: the threads that are waited for."""

from __future__ import annotations

import threading
import time
import weakref

from forklift import _ends


def test_a_thread_that_another_starts_meanwhile_is_waited_for() -> None:
    """As a relay that is started while its pool is being joined."""
    threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
    joined, ended = threading.Event(), threading.Event()

    class Births(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            joined.set()
            super().join(timeout)

        def run(self) -> None:
            assert joined.wait(120)
            relay = threading.Thread(target=lambda: (time.sleep(0.1), ended.set()))
            relay.start()
            threads.add(relay)
            relays.append(relay)

    relays: list[threading.Thread] = []
    births = Births()
    threads.add(births)
    births.start()
    _ends.await_threads(threads)
    assert ended.is_set() and not any(thread.is_alive() for thread in relays)


def test_who_waits_does_not_wait_for_itself_and_not_for_ever() -> None:
    go = threading.Event()
    stuck = threading.Thread(target=go.wait)
    stuck.start()
    _ends.await_threads([threading.current_thread(), stuck], 0.05)
    assert stuck.is_alive()
    go.set()
    stuck.join()
