"""Open files cannot be sent. cloudpickle sends a text file as a copy of its contents in memory, without a word."""

from __future__ import annotations

from typing import Any

import pytest

import forklift

from . import work


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text"
    path.write_text("a text")
    with path.open() as file:
        yield file


def refuse(path: str) -> Any:
    return pytest.raises(forklift.EncodeError, match=r"cannot pickle '_io\.TextIOWrapper' object"), path


def test_items(pool, file):
    for items, path in (
        ([1, file], "items[1]"),
        ([{"log": [file]}], "items[0]['log'][0]"),
        ([lambda: file], "items[0].<closure file>"),
        ([(1, (2, file))], "items[0][1][1]"),
    ):
        for call in (pool.map, lambda f, i: list(pool.imap(f, i)), lambda f, i: pool.map_async(f, i).get(40)):
            raises, expected = refuse(path)
            with raises as caught:
                call(work.identity, items)
            assert caught.value.path == expected and isinstance(caught.value, TypeError)
    assert pool.map(work.identity, [1]) == [1]


def test_arguments_of_calls(pool, file):
    raises, _ = refuse("")
    with raises:
        pool.apply(work.identity, ({"log": file},))
    with forklift.Executor(1) as executor:
        raises, path = refuse("args[0]['log']")
        with raises as caught:
            executor.submit(work.identity, {"log": file}).result(40)
        assert caught.value.path == path


def test_functions(pool, file):
    raises, path = refuse("read.<closure file>")

    def read(count: int) -> str:
        return file.read(count)

    with raises as caught:
        pool.map(read, [1])
    assert caught.value.path == path


def test_results(pool, file):
    name = file.name
    raises, path = refuse("result[1]")
    with raises as caught:
        pool.map(lambda mode: (mode, open(name, mode)), ["r"])  # noqa: SIM115
    assert caught.value.path == path


def test_the_standard_streams_are_those_of_whoever_has_them(scripts):
    ended = scripts.run("""
    import forklift
    with forklift.Pool(1) as pool:
        def told(stream):
            return stream is sys.stdout or stream is sys.stderr
        assert pool.map(told, [sys.stdout, sys.stderr]) == [True, True]
    """)
    assert ended.check() == ""


def test_a_global_of_the_program(scripts):
    ended = scripts.run("""
    import forklift
    log = open(__file__)
    def read(count):
        return log.read(count)
    with forklift.Pool(1) as pool:
        try:
            pool.map(read, [1])
        except forklift.EncodeError as error:
            print(error.path)
    """)
    assert ended.check() == "read.<global log>\n"
