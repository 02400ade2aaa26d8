"""A ray-cast world that writes genuine KITTI, NYU, Waymo and nuScenes files."""

from simipu_core.synthetic.world import synthesize

__all__ = ["synthesize"]
