from __future__ import annotations

import pytest
from formats import cvat

from tests.tools.dataset_converters.formats.test_voc import (
    add_image,
    counts_agree,
    list_boxes,
    write,
)

LABELS = '<labels><label><name>dog</name></label><label><name>cat</name></label></labels>'
META = f'<version>1.1</version><meta><task>{LABELS}</task></meta>'


def add(folder, body, meta=META):
    return write(folder / 'annotations.xml', f'<annotations>{meta}{body}</annotations>')


def box(label, x1, y1, x2, y2, more=''):
    return f'<box label="{label}" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" {more}/>'


def test_every_kind_of_shape(tmp_path):
    shapes = [
        box('cat', 1.5, 2, 11, 12),
        box('dog', 10, 10, 30, 20, 'rotation="90.00"'),
        '<polygon label="dog" points="4.0,4.0;8.0,2.0;6.0,9.0"/>',
        '<ellipse label="dog" cx="20" cy="20" rx="5" ry="3" rotation="90"/>',
        '<mask label="dog" rle="1, 2" left="3" top="4" width="5" height="6"/>',
        '<cuboid label="dog" xtl1="1" ytl1="2" xbl1="1" ybl1="9" xtr1="7" ytr1="2" xbr1="7" '
        'ybr1="9" xtl2="3" ytl2="1" xbl2="3" ybl2="8" xtr2="9" ytr2="1" xbr2="9" ybr2="8"/>',
        '<polyline label="dog" points="1,1;2,2"/>',
        '<points label="dog" points="1,1"/>',
        '<tag label="dog"/>',
    ]
    image = '<image id="0" name="sub/a.png" width="50" height="40" subset="Validation">'
    image += f'{"".join(shapes)}</image>'
    add(tmp_path, image + '<image id="1" name="b.png" width="50" height="40"/>')
    add_image(tmp_path / 'images/sub/a.png')
    add_image(tmp_path / 'images/b.png')
    export = cvat.read(tmp_path, None)
    (name, boxes), other = list_boxes(export).items()
    assert (name, other) == ('a.png', ('b.png', []))
    expected = [
        *[('cat', (1.5, 2, 11, 12)), ('dog', (15, 5, 25, 25)), ('dog', (4, 2, 8, 9))],
        *[('dog', (17, 15, 23, 25)), ('dog', (3, 4, 8, 10)), ('dog', (1, 1, 9, 9))],
    ]
    assert [(label, pytest.approx(corners)) for label, corners in boxes] == expected
    assert export.classes == ['dog', 'cat']
    assert [(i.size_wh, i.split) for i in export.images] == [((50, 40), 'val'), ((50, 40), '')]
    kinds = {'rotated boxes': 1, 'polygons': 1, 'ellipses': 1, 'masks': 1, 'cuboids': 1}
    assert export.converted == kinds
    assert export.skipped == {'polylines': 1, 'points': 1, 'tags': 1}
    assert export.num_boxes == 9
    assert counts_agree(export)


def test_a_video(tmp_path):
    def track(label, *boxes):
        return f'<track id="0" label="{label}">{"".join(boxes)}</track>'

    def frame(number, x, outside=0):
        return box('', x, 2, x + 8, 12, f'frame="{number}" outside="{outside}" keyframe="1"')

    body = track('dog', frame(0, 1), frame(1, 2), frame(2, 3, outside=1))
    body += track('cat', frame(1, 5), frame(9, 5))
    add(tmp_path, body)
    for number in range(3):
        add_image(tmp_path / f'images/frame_{number:06}.jpg')
    export = cvat.read(tmp_path / 'annotations.xml', None)
    assert list_boxes(export) == {
        'frame_000000.jpg': [('dog', (1, 2, 9, 12))],
        'frame_000001.jpg': [('dog', (2, 2, 10, 12)), ('cat', (5, 2, 13, 12))],
        'frame_000002.jpg': [],
    }
    assert export.num_boxes == 4  # where a track is outside there is no object
    assert export.lost == {'images': 1, 'boxes': 1}  # frame 9
    assert counts_agree(export)


def track_of(number):
    frame = f'frame="{number}" outside="0"'
    return f'<track label="dog">{box("", 1, 2, 9, 12, frame)}</track>'


@pytest.mark.follows('ffmpeg does? Then rename them')
def test_images_that_ffmpeg_numbered_from_1(tmp_path, capsys):
    add(tmp_path, track_of(1), META.replace('<labels>', '<size>3</size><labels>'))
    for number in (1, 2, 3):
        add_image(tmp_path / f'{number:06}.png')
    frames = {name: len(boxes) for name, boxes in list_boxes(cvat.read(tmp_path, None)).items()}
    assert frames == {'000001.png': 0, '000002.png': 1, '000003.png': 0}
    assert 'numbered from 1, frames from 0' in capsys.readouterr().out
    add_image(tmp_path / '000004.png')  # which of them is frame 1 nobody knows
    cvat.read(tmp_path, None)
    assert 'are they numbered from 1, as ffmpeg does?' in capsys.readouterr().err
    for number in (1, 2, 3, 4):
        (tmp_path / f'{number:06}.png').rename(tmp_path / f'frame_{number - 1:06}.png')
    frames = {name: len(boxes) for name, boxes in list_boxes(cvat.read(tmp_path, None)).items()}
    assert [frames[f'frame_{number:06}.png'] for number in range(4)] == [0, 1, 0, 0]
    assert capsys.readouterr().err == ''


def test_each_video_of_several_has_its_own_images(tmp_path):
    for name in ('one', 'two'):
        add(tmp_path / name, track_of(0))
        add_image(tmp_path / name / 'frame_000000.png')
    export = cvat.read(tmp_path, None)
    found = [(image.path.parent.name, len(image.boxes)) for image in export.images]
    assert found == [('one', 1), ('two', 1)]


def test_faults_are_listed_and_counted(tmp_path, capsys):
    bad = [
        box('', 1, 2, 3, 4),
        box('dog', 1, 'x', 3, 4),
        '<box label="dog" xtl="1"/>',
        '<polygon label="dog" points=""/>',
        '<polygon label="dog" points="1,2;3"/>',
        '<ellipse label="dog" cx="1"/>',
    ]
    images = f'<image name="a.png">{"".join(bad)}{box("dog", 1, 2, 3, 4)}</image>'
    images += f'<image name="gone.png">{box("dog", 1, 2, 3, 4)}</image><image/>'
    file = add(tmp_path, images)
    add_image(tmp_path / 'a.png')
    export = cvat.read(tmp_path, None)
    assert list_boxes(export) == {'a.png': [('dog', (1, 2, 3, 4))]}
    assert export.lost == {'boxes': 6 + 1, 'images': 2}
    assert counts_agree(export)
    err = capsys.readouterr().err
    assert f'{file}: image a.png: box 0: has no label' in err
    assert f'{file}: image gone.png: no image of this name' in err


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('<annotations><image>', 'annotations.xml: no element found'),
        ('<annotation></annotation>', 'no .xml file with the root <annotations>'),
        ('<!DOCTYPE x><annotations/>', 'has a DOCTYPE'),
    ],
)
def test_broken_files(tmp_path, text, words):
    write(tmp_path / 'annotations.xml', text)
    add_image(tmp_path / 'a.png')
    assert bool(cvat.recognise(tmp_path)) == ('<annotations' in text)
    with pytest.raises(ValueError, match=words):
        cvat.read(tmp_path, None)
