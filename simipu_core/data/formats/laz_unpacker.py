"""Unpacks LAZ points in a process of its own: on hostile input the unpacker asks for any memory, or aborts.

Run with the number of bytes to unpack to, that of the LASzip record, and the points' position in the file. On
standard input: the record, then the file. On standard output: the points.
"""

import io
import resource
import sys

import lazrs

MOST_MEMORY = 1 << 30
"""Address space beyond the points themselves, bytes."""


def main() -> None:
    """Unpack standard input; ends with an error code where it is damaged."""
    size, length, start = map(int, sys.argv[1:])
    data = sys.stdin.buffer.read()
    limit = MOST_MEMORY + 2 * size + len(data)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    source, points = io.BytesIO(data[length:]), bytearray(size)
    source.seek(start)
    lazrs.LasZipDecompressor(source, data[:length]).decompress_many(points)
    sys.stdout.buffer.write(points)


if __name__ == "__main__":
    main()
