"""Rooms of template_creation.py, each imported by its neighbours as `.room`.

The script stands beside this folder and is run by path, by -m and by import. Run by path it finds
the folder as `captioning`, otherwise as `preprocessing.captioning`; inside, all imports are
relative, so that either name does.
"""
