"""Ropeway takes a large model up a cluster of Ascend NPUs."""

__version__ = "0.1.0"
