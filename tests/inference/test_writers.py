"""What the writers put into their files: values worked out by hand."""

import csv
import json
import re
import resource
from pathlib import Path

import cv2
import numpy as np
import pytest

from ghmdet.inference.detections import Detections
from ghmdet.inference.writers import CSV_COLUMNS, WRITERS, check_outputs

CLASSES = ('cat', 'dog, big')
PLAIN = np.full((100, 200, 3), 128, np.uint8)


def detections(name='a/1.jpg', boxes=(), scores=(), labels=(), **options):
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int64),
        **{'classes': CLASSES, 'shape': (100, 200), 'name': name, 'path': name} | options,
    )


FOUND = detections('a/1.jpg', [[10, 20, 40, 60], [0.1, 0, 50, 100]], [0.75, 0.5], [1, 0])
NONE = detections('b/1.jpg')
FRAME = detections('v.mp4', [[1, 2, 3, 4]], [0.25], [0], frame=12)


def write(key, path, *items, finished=True, pixels=PLAIN, **options):
    """Write detections, and return where they are."""
    classes = items[0].classes if items else CLASSES
    writer = WRITERS[key](path, classes, **options)
    for found in items:
        writer.write(found, lambda: pixels)
    return writer.close(finished)


def test_json(tmp_path):
    path = write('json', tmp_path / 'x' / 'f.json', FOUND, NONE, FRAME)
    x = float(np.float32(0.1))
    assert json.loads(path.read_text()) == [
        dict(
            **dict(image_id='a/1.jpg', category_id=2, category_name='dog, big', score=0.75),
            **dict(bbox=[10, 20, 30, 40], file_name='a/1.jpg'),
        ),
        dict(
            **dict(image_id='a/1.jpg', category_id=1, category_name='cat', score=0.5),
            **dict(bbox=[x, 0, 50 - x, 100], file_name='a/1.jpg'),
        ),
        dict(
            **dict(image_id='v.mp4/000012.jpg', category_id=1, category_name='cat', score=0.25),
            **dict(bbox=[1, 2, 2, 2], file_name='v.mp4', frame=12),
        ),
    ]
    assert [file.name for file in path.parent.iterdir()] == ['f.json']


def test_coco(tmp_path):
    path = write('coco', tmp_path / 'f.json', NONE, FOUND, FRAME)
    content = json.loads(path.read_text())
    assert content['categories'] == [dict(id=1, name='cat'), dict(id=2, name='dog, big')]
    size = dict(width=200, height=100)
    assert content['images'] == [
        dict(id=1, file_name='b/1.jpg', **size),
        dict(id=2, file_name='a/1.jpg', **size),
        dict(id=3, file_name='v.mp4/000012.jpg', **size),
    ]
    first, second, third = content['annotations']
    common = dict(category_id=2, bbox=[10, 20, 30, 40], area=1200, iscrowd=0, score=0.75)
    common['segmentation'] = []
    assert first == dict(id=1, image_id=2, **common)
    assert (second['id'], second['image_id'], second['category_id']) == (2, 2, 1)
    assert (third['id'], third['image_id'], third['area']) == (3, 3, 4)
    assert [file.name for file in tmp_path.iterdir()] == ['f.json']


def test_csv(tmp_path):
    path = write('csv', tmp_path / 'f.csv', FOUND, NONE, FRAME)
    assert path.read_bytes() == (
        b'file,frame,label,name,score,x1,y1,x2,y2,width,height\r\n'
        b'a/1.jpg,,1,"dog, big",0.75,10.0,20.0,40.0,60.0,200,100\r\n'
        b'a/1.jpg,,0,cat,0.5,0.1,0.0,50.0,100.0,200,100\r\n'
        b'v.mp4,12,0,cat,0.25,1.0,2.0,3.0,4.0,200,100\r\n'
    )


def test_numbers_of_the_csv_are_those_of_the_detections(tmp_path):
    draw = np.random.default_rng(0)
    boxes, scores = draw.uniform(0, 9999, (500, 4)), draw.uniform(0, 1e-3, 500)
    found = detections('x', boxes, scores, [0] * 500)
    rows = list(csv.DictReader(write('csv', tmp_path / 'f.csv', found).open(newline='')))
    read = np.array([[row[key] for key in CSV_COLUMNS[4:9]] for row in rows], np.float32)
    assert np.array_equal(read, np.column_stack([found.scores, found.boxes]))


def test_yolo(tmp_path):
    assert write('yolo', tmp_path, FOUND, NONE, FRAME) == tmp_path
    lines = (tmp_path / 'labels/a/1.txt').read_text().splitlines()
    label, *numbers = lines[0].split()
    assert label == '1'
    # centre (25, 40), size 30 x 40 in 200 x 100
    assert [float(number) for number in numbers] == [0.125, 0.4, 0.15, 0.4, 0.75]
    assert len(lines) == 2
    assert (tmp_path / 'labels/b/1.txt').read_text() == ''
    assert (tmp_path / 'labels/v.mp4/000012.txt').read_text().count('\n') == 1
    assert (tmp_path / 'classes.txt').read_text() == 'cat\ndog, big\n'


def test_labelme(tmp_path):
    photo = tmp_path / 'photos' / 'a' / '1.jpg'
    found = detections('a/1.jpg', FOUND.boxes, FOUND.scores, FOUND.labels, path=str(photo))
    url = detections('host/2.jpg', path='http://host/2.jpg')
    write('labelme', tmp_path / 'out', found, url, FRAME)
    content = json.loads((tmp_path / 'out/a/1.json').read_text())
    shape = content['shapes'][0]
    assert (shape['label'], shape['shape_type'], shape['score']) == ('dog, big', 'rectangle', 0.75)
    assert shape['points'] == [[10, 20], [40, 60]]
    assert (shape['group_id'], shape['flags'], len(content['shapes'])) == (None, {}, 2)
    assert (content['imageHeight'], content['imageWidth']) == (100, 200)
    assert (content['imageData'], content['flags']) == (None, {})
    assert content['version']
    assert content['imagePath'] == '../../photos/a/1.jpg'
    content = json.loads((tmp_path / 'out/host/2.json').read_text())
    assert (content['imagePath'], content['shapes']) == ('2.jpg', [])
    content = json.loads((tmp_path / 'out/v.mp4/000012.json').read_text())
    assert content['imagePath'] == '000012.jpg'


def test_without_any_image_and_without_any_detection(tmp_path):
    for name, items in (('no image', ()), ('no detection', (NONE,))):
        folder = tmp_path / name
        assert json.loads(write('json', folder / 'f.json', *items).read_text()) == []
        rows = write('csv', folder / 'f.csv', *items).read_text().splitlines()
        assert [row.split(',') for row in rows] == [CSV_COLUMNS]
        content = json.loads(write('coco', folder / 'coco.json', *items).read_text())
        assert (len(content['images']), content['annotations']) == (len(items), [])
        assert write('video', folder / 'f.avi').read_bytes() == b''


# --- a stop ---------------------------------------------------------------------------------------


def test_what_grows_can_be_read_after_each_image(tmp_path):
    paths = {key: tmp_path / f'{key}.{"csv" if key == "csv" else "json"}' for key in WRITERS}
    writers = {key: WRITERS[key](paths[key], CLASSES) for key in ('json', 'coco', 'csv')}
    for count in range(5):
        lists = dict.fromkeys(('json', 'coco.annotations'), 2 * count) | {'coco.images': count}
        for name, expected in lists.items():
            assert len(json.loads((tmp_path / f'{name}.part.json').read_text())) == expected
        assert len((tmp_path / 'csv.part.csv').read_text().splitlines()) == 1 + 2 * count
        for writer in writers.values():
            writer.write(FOUND, lambda: PLAIN)
    names = [writer.close(finished=False).name for writer in writers.values()]
    assert names == ['json.part.json', 'coco.part.json', 'csv.part.csv']
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
    assert len(json.loads((tmp_path / 'json.part.json').read_text())) == 10
    assert len(json.loads((tmp_path / 'coco.part.json').read_text())['annotations']) == 10


@pytest.fixture
def file_limit():
    """A full disk: no file can have more bytes than what is given."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_images_before(tmp_path, file_limit):
    found = detections('a.jpg', [[1, 2, 3, 4]] * 10, [0.5] * 10, [0] * 10)
    opened = [WRITERS[key](tmp_path / f'f.{key}', CLASSES) for key in ('json', 'csv')]
    for writer in opened:
        writer.write(found, lambda: PLAIN)
        size = (tmp_path / f'f.part{writer.suffixes[0]}').stat().st_size
        file_limit(size + size // 2)
        with pytest.raises(OSError, match='File too large'):
            writer.write(found, lambda: PLAIN)
    assert len(json.loads((tmp_path / 'f.part.json').read_text())) == 10
    assert len((tmp_path / 'f.part.csv').read_text().splitlines()) == 11


# --- pictures, crops, videos ----------------------------------------------------------------------


def test_pictures_keep_folder_and_format(tmp_path):
    names = ['a/1.png', 'b/1.png', '1.JPG', '1.gif', 'x']
    items = [detections(name, [[10, 20, 60, 60]], [0.75], [0]) for name in names]
    write('pictures', tmp_path, *items, FRAME)
    found = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob('*') if file.is_file()}
    assert found == {
        *('a/1.png', 'b/1.png', '1.JPG', '1.gif.jpg', 'x.jpg', 'v.mp4/000012.jpg'),
    }
    assert np.array_equal(cv2.imread(str(tmp_path / 'a/1.png')), items[0].plot(PLAIN))
    assert (tmp_path / 'a/1.png').read_bytes()[:4] == b'\x89PNG'
    assert {(tmp_path / name).read_bytes()[:2] for name in ('1.JPG', '1.gif.jpg')} == {b'\xff\xd8'}


def test_crops(tmp_path):
    image = np.zeros((100, 200, 3), np.uint8)
    image[20:61, 10:41] = (0, 0, 250)
    boxes = [[10.5, 20.5, 40.5, 60.5], [-5, -5, 3, 2], [200, 10, 220, 20], [190, 90, 230, 130]]
    found = detections('a/1.png', boxes, [0.9, 0.8, 0.7, 0.6], [1, 0, 0, 0])
    write('crops', tmp_path, found, pixels=image)
    shapes = {
        str(file.relative_to(tmp_path)): cv2.imread(str(file)).shape[:2]
        for file in tmp_path.rglob('*.jpg')
    }
    # The third box is outside.
    assert shapes == {
        'dog, big/a/1_0.jpg': (41, 31),
        'cat/a/1_1.jpg': (2, 3),
        'cat/a/1_3.jpg': (10, 10),
    }
    crop = cv2.imread(str(tmp_path / 'dog, big/a/1_0.jpg')).reshape(-1, 3)
    assert np.abs(crop.astype(int) - (0, 0, 250)).max() <= 3


def test_a_class_that_no_folder_can_be_named_by(tmp_path):
    names = ('a/b', '..', 'A: b. ', 'ünï')
    boxes = [[0, 0, 9, 9]] * 4
    write('crops', tmp_path, detections('x.jpg', boxes, [0.5] * 4, range(4), classes=names))
    folders = {file.parent.name for file in tmp_path.rglob('*.jpg')}
    assert folders == {'a_b', 'no name', 'A_ b', 'ünï'}


def draw_video(path, count=8, fps=12.5):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), fps, (200, 100))
    for number in range(count):
        video.write(np.full((100, 200, 3), 20 * number, np.uint8))
    video.release()


@pytest.mark.parametrize('suffix', ['.mp4', '.avi', '.webm'])
def test_a_video_is_as_fast_as_its_source(tmp_path, suffix):
    source = tmp_path / 'source.avi'
    draw_video(source)
    frames = [detections('s', [[50, 20, 90, 80]], [0.5], [0], path=str(source), frame=0)] * 4
    path = write('video', tmp_path / f'out{suffix}', *frames, every=2)
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FPS) == 6.25
    read = [video.read() for _ in range(5)]
    assert [valid for valid, _ in read] == [True] * 4 + [False]
    expected = frames[0].plot(PLAIN).astype(int)
    assert np.abs(read[0][1] - expected).mean() < 6
    assert np.abs(read[0][1] - PLAIN.astype(int)).mean() > 6


def test_a_video_needs_images_of_one_size(tmp_path):
    writer = WRITERS['video'](tmp_path / 'f.avi', CLASSES)
    writer.write(NONE, lambda: PLAIN)
    other = detections('c.jpg', shape=(50, 60))
    text = r'c.jpg is \(60, 50\) \(width, height\), those before are \(200, 100\)'
    with pytest.raises(ValueError, match=text):
        writer.write(other, lambda: PLAIN[:50, :60])
    assert writer.close(finished=False) == tmp_path / 'f.part.avi'
    assert cv2.VideoCapture(str(tmp_path / 'f.part.avi')).get(cv2.CAP_PROP_FRAME_COUNT) == 1


# --- names ----------------------------------------------------------------------------------------

ODD = 'a,"b"\nc ü \udcff.jpg'


def test_odd_file_names(tmp_path):
    found = detections(ODD, [[1, 2, 3, 4]], [0.5], [0])
    text = ODD.replace('\udcff', '\\udcff')
    (row,) = json.loads(write('json', tmp_path / 'f.json', found).read_text())
    assert row['image_id'] == row['file_name'] == text
    (row,) = csv.DictReader(write('csv', tmp_path / 'f.csv', found).open(newline=''))
    assert row['file'] == text
    content = json.loads(write('coco', tmp_path / 'coco.json', found).read_text())
    assert content['images'][0]['file_name'] == text
    write('labelme', tmp_path / 'labelme', found)
    (file,) = (tmp_path / 'labelme').iterdir()
    assert file.name == ODD.replace('.jpg', '.json')


def test_images_that_differ_in_the_suffix_have_files_of_their_own(tmp_path):
    items = [detections(name, [[1, 2, 3, 4]] * n, [0.5] * n, [0] * n) for n, name in FILES]
    write('yolo', tmp_path, *items)
    counts = {
        str(file.relative_to(tmp_path / 'labels')): file.read_text().count('\n')
        for file in (tmp_path / 'labels').rglob('*.txt')
    }
    assert counts == {'a/1.txt': 1, 'a/1.png.txt': 2, 'b/1.txt': 3}


FILES = (1, 'a/1.jpg'), (2, 'a/1.png'), (3, 'b/1.jpg')


# --- checks before a run --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('outputs', 'text'),
    [
        (dict(json='f.txt'), '--json f.txt: the name must end in .json'),
        (dict(csv='file/f.csv'), '--csv file/f.csv: no file of this name can be created in file'),
        (dict(yolo='file'), '--yolo file: no file of this name can be created in file'),
        (dict(json='folder.json'), '--json folder.json: no file of this name'),
    ],
)
def test_paths_that_cannot_be_written(outputs, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('file').touch()
    Path('folder.json').mkdir()
    with pytest.raises(ValueError, match=f'^{re.escape(text)}'):
        check_outputs({key: Path(name) for key, name in outputs.items()})


@pytest.mark.follows('{}: the name must end in {}')
def test_the_suffix_of_a_file(tmp_path):
    with pytest.raises(ValueError, match=r'the name must end in \.mp4 or \.avi or \.webm$'):
        check_outputs(dict(video=tmp_path / 'f.mov'))
    for suffix in ('mp4', 'AVI', 'webm'):
        check_outputs(dict(video=tmp_path / f'f.{suffix}'))
        assert write('video', tmp_path / f'f.{suffix}', FOUND).stat().st_size > 1000


@pytest.mark.follows('would both write')
def test_outputs_need_names_of_their_own(tmp_path):
    same = tmp_path / 'f.json'
    with pytest.raises(ValueError, match=r'--coco .*f.json and --json .* would both write'):
        check_outputs(dict(json=same, coco=same))
    check_outputs(dict(json=same, coco=tmp_path / 'g.json'))


@pytest.mark.follows('--exist-ok replaces equal names')
@pytest.mark.parametrize(
    ('key', 'path', 'there'),
    [
        ('json', 'f.json', 'f.json'),
        ('json', 'f.json', 'f.part.json'),
        ('coco', 'f.json', 'f.images.part.json'),
        ('csv', 'f.csv', 'f.csv'),
        ('yolo', 'd', 'd/labels/a/1.txt'),
        ('yolo', 'd', 'd/classes.txt'),
        ('labelme', 'd', 'd/a/1.json'),
        ('pictures', 'd', 'd/a/1.jpg'),
    ],
)
def test_nothing_is_replaced_unasked(tmp_path, key, path, there):
    path, old = tmp_path / path, tmp_path / there
    check_outputs({key: path})
    old.parent.mkdir(parents=True, exist_ok=True)
    old.write_text('old')
    (tmp_path / 'd').mkdir(exist_ok=True)
    (tmp_path / 'd' / 'mine').write_text('mine')
    with pytest.raises(FileExistsError, match='exists; --exist-ok replaces equal names'):
        check_outputs({key: path})
    check_outputs({key: path}, exist_ok=True)
    write(key, path, FOUND)
    assert not old.exists() or old.read_bytes()[:3] != b'old'
    assert (tmp_path / 'd' / 'mine').read_text() == 'mine'
