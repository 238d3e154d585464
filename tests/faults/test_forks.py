"""Forks of the user's process while threads of the pool are in the middle of something.

That no lock can be inherited locked is shown by 20,000 forks in `crates/shm/tests/forks.rs`; here, that nothing goes
past those locks.
"""

from __future__ import annotations


def test_forks_beside_a_pool_that_recycles(scripts):
    """The driver notes births and deaths all the time; each child uses what it inherited."""
    ended = scripts.run("""
    import threading
    import numpy
    import forklift
    over = False
    with forklift.Pool(4, maxtasksperchild=1) as pool, forklift.shared_arrays():
        def work():
            while not over:
                assert pool.map(abs, range(-8, 0), chunksize=1) == list(range(8, 0, -1))
                pool.report()
        thread = threading.Thread(target=work)
        thread.start()
        try:
            for _ in range(250):
                result = pool.apply(numpy.ones, (20_000,))
                array = numpy.ones(20_000)
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        import signal
                        signal.alarm(20)
                        array.resize(30_000, refcheck=False)
                        result += 1
                        assert result.sum() == 40_000 and array.sum() == 20_000
                        del result, array
                        numpy.ones(20_000)
                        code = 0
                    finally:
                        os._exit(code)
                assert os.waitpid(child, 0)[1] == 0
                assert result.sum() == array.sum() == 20_000
        finally:
            over = True
            thread.join()
    print("end")
    """)
    assert ended.check() == "end\n"


def test_workers_that_are_forked_from_the_program_and_recycled(scripts):
    """Each birth is a fork beside the driver."""
    ended = scripts.run("""
    import forklift
    with forklift.Pool(8, context="fork", maxtasksperchild=1) as pool:
        for _ in range(6):
            assert pool.map(abs, range(100), chunksize=1) == list(range(100))
    print("end")
    """)
    assert ended.check() == "end\n"


def test_what_a_fork_is_told_that_waits_for_its_parents_results(scripts):
    """Nothing comes there; results that had come can be had."""
    ended = scripts.run("""
    import threading
    import forklift
    def slow(x):
        mark()
        await_mark("end", 60)
        return x
    with forklift.Pool(1) as pool:
        there = pool.apply_async(abs, (-5,))
        there.wait()
        waiting = [pool.map_async(slow, [1]), pool.apply_async(slow, (1,)), pool.imap(slow, [1])]
        blocked = threading.Thread(target=waiting[2].next)
        blocked.start()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert there.get() == 5
                for what in waiting:
                    try:
                        what.next() if hasattr(what, "next") else what.get()
                    except RuntimeError as error:
                        assert "forked" in str(error), error
                    else:
                        raise AssertionError(what)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        mark("end")
        blocked.join()
        assert [waiting[0].get(), waiting[1].get()] == [[1], 1]
    print("end")
    """)
    assert ended.check() == "end\n"
