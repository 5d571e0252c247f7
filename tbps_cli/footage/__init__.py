"""Persons in videos and whole frames: the frames of a file, where somebody is in them, and who is the same in the next.

`frames.py` reads videos, `detector.py` opens what finds persons, `tracks.py` joins what was found, and `sightings.py`
does all three for one file and remembers what the detector found; `crops.py` shows it. OpenCV, PyAV and norfair are
imported when the first video is opened.
"""
