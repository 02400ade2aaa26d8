"""Messages of ROS 1 and ROS 2 bags, decoded by the definitions of the standard messages that come with the library.

The definitions that a bag brings along are not used, except to refuse messages that are not the standard ones: the
library would make Python code of them and run it, and bags come from anywhere.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag2 import Reader as Reader2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from simipu_core.errors import SimipuError

_TRANSFORMS = "tf2_msgs/msg/TFMessage"


class BagReader:
    """An open bag.

    Args:
        bag: .bag or .mcap file, or the folder of a ROS 2 bag.

    Raises:
        Exception: of many types, where the bag cannot be read.
    """

    def __init__(self, bag: Path) -> None:
        self._bag, self._is_ros1 = bag, bag.suffix == ".bag"
        self._types = _standard_types(self._is_ros1)
        self._reader: Reader1 | Reader2 = Reader1(bag) if self._is_ros1 else Reader2(bag)
        self._reader.open()

    @property
    def connections(self) -> list[Connection]:
        """Topics with their types, one entry for each that wrote to them."""
        return [_fully_named(each) for each in self._reader.connections]

    def check_definitions(self, connections: Collection[Connection]) -> None:
        """Refuse messages of other definitions than the standard ones.

        Raises:
            SimipuError: there are some.
        """
        for connection in connections:
            name = connection.msgtype
            if name not in self._types.fielddefs:
                continue  # it will not be decoded
            known = self._types.generate_msgdef(name)[1] if self._is_ros1 else self._types.hash_rihs01(name)
            if connection.digest and connection.digest != known:
                raise SimipuError(
                    f"{self._bag}: {connection.topic} holds messages called {name} of another definition than the "
                    "standard one; record the topic as standard messages."
                )

    def messages(self, connections: Collection[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
        """Encoded messages with the time at which they were recorded, nanoseconds, in that order."""
        wanted = [each for each in self._reader.connections if _fully_named(each) in connections]
        for connection, time, data in self._reader.messages(connections=wanted):
            yield _fully_named(connection), time, data

    def decode(self, data: bytes, kind: str) -> Any:
        """A message.

        Raises:
            Exception: of many types, where the data is not such a message.
        """
        return (self._types.deserialize_ros1 if self._is_ros1 else self._types.deserialize_cdr)(data, kind)

    def close(self) -> None:
        """Close the files."""
        self._reader.close()


def _fully_named(connection: Connection) -> Connection:
    """With a type as ROS 2 writes it, ``sensor_msgs/msg/Image``: some recorders leave ``msg`` out, as ROS 1 does."""
    package, _, name = connection.msgtype.partition("/")
    return connection if "/" in name else connection._replace(msgtype=f"{package}/msg/{name}")


def _standard_types(is_ros1: bool) -> Typestore:
    if not is_ros1:
        return get_typestore(Stores.ROS2_HUMBLE)
    types = get_typestore(Stores.ROS1_NOETIC)
    if _TRANSFORMS not in types.fielddefs:
        types.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", _TRANSFORMS))
    return types
