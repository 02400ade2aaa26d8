"""Campaigns of kills, corruptions, foreign bytes and faults that go on for as long as they are given: `make torture`.

Each trial is decided by the seed and its number, so that what it found can be found again; counts and numbers lie in a
file, from which the next call goes on.
"""
