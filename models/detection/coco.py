"""The ids of COCO's classes in a list of labels that has a place for each."""

from __future__ import annotations

IDS = 90  # of which 80 are in use
UNUSED = "???"  # label of an id that is not
