"""Install ghmdet: `pip install .`; what it needs is in requirements.txt."""

from pathlib import Path

from setuptools import setup

requirements = (Path(__file__).parent / 'requirements.txt').read_text().split()

setup(install_requires=requirements)
