"""A cluster that a pool starts for itself listens to this machine alone."""

from __future__ import annotations

import pytest


@pytest.mark.untidy("dask's own threads; the program ends with them")
def test_dasks_own_cluster_is_for_this_machine(scripts):
    pytest.importorskip("distributed")
    ended = scripts.run("""
    import forklift
    def listening():
        own = set()
        for number in os.listdir("/proc/self/fd"):
            try:
                own.add(os.readlink("/proc/self/fd/" + number))
            except OSError:
                continue
        for family in ("tcp", "tcp6"):
            for line in open("/proc/self/net/" + family).read().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                    yield fields[1].partition(":")[0]
    with forklift.Pool(2, backend="dask") as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
        print(set(listening()) - {"0100007F"})
    """)
    assert (ended.returncode, ended.stdout) == (0, "set()\n")
