"""Tools run in the process of the tests, and COCO files written by hand."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from ghmdet.config import cli

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture
def run_tool(capsys, monkeypatch, tmp_path):
    """Run a tool in `tmp_path`; return its exit code, stdout and stderr."""

    def run_tool(tool, *args):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        main = runpy.run_path(str(TOOLS / tool))['main']
        code = 0
        try:
            cli.run(main)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run_tool


def write_squares(path, image_side, sides, crowd=()):
    """Write a COCO file of one image with a square box per side; `crowd` are their indices."""
    boxes = [
        dict(id=i + 1, image_id=1, category_id=1, bbox=[40, 40, side, side], area=side**2)
        | dict(iscrowd=int(i in crowd))
        for i, side in enumerate(sides)
    ]
    images = [dict(id=1, file_name='a.png', width=image_side, height=image_side)]
    content = dict(images=images, categories=[dict(id=1, name='cat')], annotations=boxes)
    path.write_text(json.dumps(content))


def message_of(error, function, *args, **kwargs):
    """Return the message of the error that a call raises."""
    with pytest.raises(error) as caught:
        function(*args, **kwargs)
    return str(caught.value)
