"""Commands about own logs."""

from pathlib import Path
from typing import Annotated

import typer

from simipu_core.cli.options import local_place


def import_bag(
    bag: Annotated[
        Path,
        typer.Argument(
            metavar="BAG",
            parser=local_place,
            help=".bag or .mcap file, or folder of a ROS 2 bag.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            parser=local_place,
            help="Root of the raw data; the sequence is added below OUT/logs.",
            show_default=False,
        ),
    ],
    image_topic: Annotated[
        list[str],
        typer.Option(
            metavar="[CAMERA=]TOPIC",
            help="Topic of Image or CompressedImage; may be repeated with names, e.g. left=/camera/left/image_raw.",
            show_default=False,
        ),
    ],
    points_topic: Annotated[str, typer.Option(metavar="TOPIC", help="Topic of PointCloud2.", show_default=False)],
    camera_info_topic: Annotated[
        list[str] | None,
        typer.Option(metavar="[CAMERA=]TOPIC", help="Topic of CameraInfo, named like the image topic."),
    ] = None,
    sequence: Annotated[
        str | None, typer.Option(metavar="NAME", help="Folder to make; the bag's name if left out.")
    ] = None,
    rectified: Annotated[
        bool, typer.Option("--rectified", help="The images are rectified: take CameraInfo's P, and no distortion.")
    ] = False,
    receive_time: Annotated[
        bool, typer.Option("--receive-time", help="Use the times of recording, not those in the messages' headers.")
    ] = False,
    reflectance_scale: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            help="Raw intensity of reflectance 1. Left out: 1, 255 or 65535, whichever holds all that was seen.",
        ),
    ] = None,
) -> None:
    """Unpack a ROS bag to the layout of own logs (docs/data.md). ROS is not needed.

    Compressed images are kept as they are, others become PNG; scans become .npy. Intrinsics come from CameraInfo,
    where the camera sits from /tf_static. An import that was interrupted goes on when it is started again.

    Example: `simipu import-bag drive.mcap data/own --image-topic /camera/image_raw --points-topic /points
    --camera-info-topic /camera/camera_info`
    """
    from simipu_core.data.bags import BagSettings
    from simipu_core.data.bags import import_bag as work

    images, infos = _named(image_topic), _named(camera_info_topic or [])
    settings = BagSettings(images, points_topic, infos, rectified, receive_time, reflectance_scale)
    made = work(bag, out, settings, sequence)
    print(f"{made.folder}: {made.images} images, {made.scans} scans, {len(made.left_out)} messages left out")
    for reason in made.left_out[:5]:
        print(f"  left out: {reason}")
    for sentence in made.missing:
        print(f"  to do: {sentence}")


def _named(topics: list[str]) -> dict[str, str]:
    """Topics by camera; a lone topic's camera is called `camera`."""
    from simipu_core.data.sources.logs import is_sound_name
    from simipu_core.errors import SimipuError

    named = [topic.rpartition("=")[::2] for topic in topics]
    result = {name or "camera": topic for name, topic in named}
    if len(result) < len(topics):
        raise SimipuError("two topics have one camera; name them: --image-topic left=/a --image-topic right=/b.")
    if bad := [name for name in result if not is_sound_name(name)]:
        raise SimipuError(f"{bad[0]}: a camera's name consists of letters, digits and . _ + -; choose another.")
    return result


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("import-bag", rich_help_panel="Raw data")(import_bag)
