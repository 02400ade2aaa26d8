"""One HTML page: the findings, and a few frames with their LiDAR points or depth drawn over the image."""

import base64
from contextlib import closing
from functools import partial
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simipu_core.checking.report import Report
from simipu_core.checking.survey import Survey, evenly
from simipu_core.config import PairConfig
from simipu_core.data.catalogue import Content, read_content
from simipu_core.data.frames import Frame, Rejected
from simipu_core.data.images import decode_depth, decode_image, encode_jpeg
from simipu_core.data.lenses import through_pinhole
from simipu_core.data.pairing import depth_map
from simipu_core.data.sources import class_of
from simipu_core.evaluation import pages
from simipu_core.evaluation.panels import overlay
from simipu_core.geometry.cameras import in_image, project
from simipu_core.parallel import map_frames

_FRAMES = 6
_QUALITY = 80


def page(report: Report, found: Survey) -> str:
    """The page, with everything it needs in it: no scripts, no other files."""
    rows = "".join(
        f'<tr><td>{escape(each.check)}</td><td class="{each.severity}">{each.severity}</td><td>{escape(each.what)}'
        f"{_names(each.names, each.count)}</td><td>{escape(each.mend)}</td></tr>\n"
        for each in report.findings
    )
    broken = "".join(
        f"<tr><td>{escape(each.file)}</td><td>{escape(each.reason)}</td></tr>\n" for each in report.broken[:1000]
    )
    return pages.page(
        f"{report.kind} in {report.root}",
        f"<p>{report.frames:,} sound frames, {len(report.broken):,} broken.{_sampled(found)}</p>\n"
        f'<table class="texts"><tr><th>looked at</th><th></th><th>found</th><th>mend</th></tr>\n{rows}</table>\n'
        + (f'<h2>Broken frames</h2>\n<table class="texts">{broken}</table>\n' if broken else "")
        + f"<h2>Frames</h2>\n<p>LiDAR points, or depth where there is no scan, from near (red) to far (blue). Points "
        f"must sit on the things they were measured on.</p>\n{''.join(_figures(found))}",
    )


def _sampled(found: Survey) -> str:
    if not found.is_sample:
        return ""
    return (
        f" Images, scans and depth maps were measured, and the calibration was tried, in {len(found.facts):,} of them, "
        "spread evenly, and all else in all of them; <code>simipu check</code> measures every frame."
    )


def _names(names: tuple[str, ...], count: int) -> str:
    if not names:
        return ""
    more = f" and {count - len(names):,} more" if count > len(names) else ""
    return f"<br><small>{'; '.join(map(escape, names))}{more}</small>"


def _figures(found: Survey) -> list[str]:
    sound = {facts.sample_id for facts in found.facts}
    frames = {frame.sample_id: frame for frame, _ in found.listed if isinstance(frame, Frame)}
    shown = [frames[name] for name in evenly([name for name in frames if name in sound], _FRAMES)]
    with closing(map_frames(partial(_figure, found.root, found.pair), shown, "draw", rejected=_no_figure)) as figures:
        return list(figures)


def _figure(root: Path, pair: PairConfig, frame: Frame) -> str:
    content = read_content(root, frame)
    if isinstance(content, Rejected):
        return ""
    picture = base64.b64encode(encode_jpeg(draw(frame, content, pair), _QUALITY)).decode()
    name = escape(frame.sample_id)
    return (
        f'<figure><img alt="{name}" src="data:image/jpeg;base64,{picture}"><figcaption>{name}</figcaption></figure>\n'
    )


def _no_figure(_frame: Frame, _reason: str) -> str:
    return ""


def draw(frame: Frame, content: Content, pair: PairConfig) -> NDArray[np.uint8]:
    """The image (H, W, 3) RGB with its scan, or else its depth map, drawn over it."""
    image = through_pinhole(decode_image(content.image), content.row)
    height, width = image.shape[:2]
    depth: NDArray[np.floating] = np.zeros((height, width))
    if content.scan and frame.lidar_to_camera:
        uv, ahead = project(content.scan.points[:, :3], frame.lidar_to_camera, frame.intrinsics)
        inside = in_image(uv, ahead, height, width, pair.depth_range)
        depth = depth_map(uv[inside], ahead[inside], height, width)
    elif content.depth is not None and frame.depth_scale:
        depth = decode_depth(content.depth, frame.depth_scale)
    return overlay(image, depth, class_of(frame.source).shown_depth)
