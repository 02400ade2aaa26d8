"""A ray-cast world that writes genuine KITTI, NYU and Waymo files."""

from simipu_core.synthetic.world import synthesize

__all__ = ["synthesize"]
