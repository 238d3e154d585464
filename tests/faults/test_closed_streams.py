"""A program that has closed its standard streams: nothing of a pool may stand in their places, where printing goes."""

from __future__ import annotations

import pytest

CLOSED = {"input": [0], "output": [1], "all": [0, 1, 2]}


@pytest.mark.parametrize("context", [None, "spawn", "fork"])
@pytest.mark.parametrize("closed", CLOSED.values(), ids=CLOSED)
def test_standard_places_stay_free_of_what_is_the_pools(scripts, closed, context):
    program = scripts.start(f"""
    import forklift
    def standard(number):
        os.write(1, b"printed by native code")
        return [os.path.basename(os.readlink(f"/proc/self/fd/{{fd}}")) for fd in (1, 2)]
    def places():
        return [fd for fd in range(3) if os.path.exists(f"/proc/self/fd/{{fd}}")]
    if __name__ == "__main__":
        for fd in {closed}:
            os.close(fd)
        before = places()
        with forklift.Pool(2, context={context!r}) as pool:
            found = pool.map(len, [bytes(3_000_000)] * 4)
            assert found == [3_000_000] * 4
            assert len(pool.map(bytes, [3_000_000])[0]) == 3_000_000
            assert places() == before
            if {context!r} != "fork" and 1 in {closed}:
                assert set(sum(pool.map(standard, range(4)), [])) == {{"null"}} or 2 not in {closed}
        mark("end")
    """)
    assert program.run().returncode == 0
    assert (program.marks / "end").exists()
