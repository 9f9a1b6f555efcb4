"""The version of ghmdet, in a file that a build can read without mmengine."""

__version__ = '0.1.0'
