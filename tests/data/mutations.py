"""Damage to the bytes of valid files: flips, cuts, moved and repeated pieces, forged numbers."""

from hypothesis import strategies as st

_FORGED = [b"\x00" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x80", b"\xff" * 8]
_TOKENS = [b"-1", b"nan", b"1e999", b"99999999999", b"\n", b" ", b":", b"[", b"{", b"&a", b"*a", b"../", b"\xff"]


class Damaged(bytes):
    """Bytes that are shown by their beginning; hypothesis prints how to make them again."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes, {self[:16]!r}…>"


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """The data with one to four pieces of damage."""
    result = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = st.integers(0, max(len(result) - 1, 0)) | st.integers(0, min(len(result), 400))
        at, kind = draw(place), draw(st.sampled_from(["flip", "cut", "drop", "repeat", "forge", "token"]))
        if kind == "flip" and at < len(result):
            result[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del result[at:]
        elif kind == "drop":
            del result[at : at + draw(st.integers(1, 64))]
        elif kind == "repeat":
            result[at:at] = result[at : at + draw(st.integers(1, 64))]
        elif kind == "forge":
            forged = draw(st.sampled_from(_FORGED))
            result[at : at + len(forged)] = forged
        elif kind == "token":
            token = draw(st.sampled_from(_TOKENS))
            result[at : at + draw(st.sampled_from([0, len(token)]))] = token
    return Damaged(result)


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """Damaged copies of a file, and now and then something else altogether."""
    return st.one_of(mutated(data), mutated(data), mutated(data), st.binary(max_size=200))
