"""A ray-cast world that writes genuine KITTI and NYU files."""

from simipu_core.synthetic.world import synthesize

__all__ = ["synthesize"]
