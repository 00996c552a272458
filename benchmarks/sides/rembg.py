"""The side of rembg: `rembg.py PHOTO OUT COUNT GRAPH`, in an environment with rembg and without Cutout."""

import sys

from rembg import new_session, remove

from benchmarks.sides.measure import measure

session = new_session("dis_custom", model_path=sys.argv[4])
measure(lambda photo: remove(photo, session=session))
