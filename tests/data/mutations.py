"""Damage to the bytes of valid files: flips, cuts, moved and repeated pieces, forged numbers."""

from random import Random

from hypothesis import strategies as st

_FORGED = [b"\x00" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x80", b"\xff" * 8]
_TOKENS = [b"-1", b"nan", b"1e999", b"99999999999", b"\n", b" ", b":", b"[", b"{", b"&a", b"*a", b"../", b"\xff"]
_KINDS = ("flip", "cut", "drop", "repeat", "forge", "token")
_BEGINNING = 400
"""Bytes of a file in which damage is as likely as in all of it: headers."""


class Damaged(bytes):
    """Bytes that are shown by their beginning; hypothesis prints how to make them again."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes, {self[:16]!r}…>"


def mutate(data: bytes, rng: Random) -> Damaged:
    """The data with one to four pieces of damage; in one case of four, something else altogether."""
    if rng.random() < 0.25:
        return Damaged(rng.randbytes(rng.randrange(200)))
    result = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(max(rng.choice((len(result), min(len(result), _BEGINNING))), 1))
        _damage(result, at, rng)
    return Damaged(result)


def flip(data: bytes, rng: Random) -> Damaged:
    """The data with one bit, byte or piece of it changed; never the same data."""
    while True:
        result = bytearray(data)
        _damage(result, rng.randrange(len(result)), rng)
        if result != data:
            return Damaged(result)


def _damage(result: bytearray, at: int, rng: Random) -> None:
    kind = rng.choice(_KINDS)
    if kind == "flip" and at < len(result):
        result[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del result[at:]
    elif kind == "drop":
        del result[at : at + rng.randint(1, 64)]
    elif kind == "repeat":
        result[at:at] = result[at : at + rng.randint(1, 64)]
    elif kind == "forge":
        forged = rng.choice(_FORGED)
        result[at : at + len(forged)] = forged
    elif kind == "token":
        token = rng.choice(_TOKENS)
        result[at : at + rng.choice((0, len(token)))] = token


def damaged(data: bytes) -> st.SearchStrategy[Damaged]:
    """Damaged copies of a file."""
    return st.integers(0, 2**32 - 1).map(lambda seed: mutate(data, Random(seed)))
