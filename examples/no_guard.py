"""Lambdas, closures and classes of a script work, and no `if __name__ == "__main__"` is needed."""

from dataclasses import dataclass

from forklift import Pool


@dataclass
class Parcel:
    name: str
    grams: int


def postage(cents_per_gram):
    """Return a function that remembers the price."""
    return lambda parcel: (parcel.name, parcel.grams * cents_per_gram)


with Pool(2) as pool:
    parcels = [Parcel(f"parcel {number}", number * 100) for number in range(5)]
    squares = pool.map(lambda x: x * x, range(5))
    prices = pool.map(postage(3), parcels)

    def late(x):
        """A function that did not exist when the pool was made."""
        return x + 1

    assert pool.map(late, squares) == [1, 2, 5, 10, 17]

print(squares)
print(prices)
