"""Every kind of source gives its images, under names that are right and unique."""

import io
import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from ghmdet.datasets.image_file import ImageError, read_image
from ghmdet.inference import SourceImage, image_name, iterate
from ghmdet.inference.sources import MissingSourceError


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Current folder with a/1.png, a/2.png, b/1.png and what is no image."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(('a/1.png', 'a/2.png', 'b/1.png', 'a/.hidden.png')):
        Path(name).parent.mkdir(exist_ok=True)
        Image.new('RGB', (8, 6), (number, 0, 0)).save(name)
    Path('a/notes.txt').touch()
    return tmp_path


def names_of(inputs, **options):
    found = list(iterate(inputs, **options))
    assert iterate(inputs, **options, allow_missing=True).count() in (len(found), None)
    return [source.name for source in found]


def draw_video(path, frames=60, fourcc='mp4v'):
    """Frame i is grey of the value 4 * i."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*fourcc), 10, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 4 * number, np.uint8))
    writer.release()


@pytest.mark.parametrize(
    ('inputs', 'names'),
    [
        ('a', ['1.png', '2.png']),
        ('.', ['a/1.png', 'a/2.png', 'b/1.png']),
        (['a', 'b'], ['a/1.png', 'a/2.png', 'b/1.png']),
        ('a/1.png', ['1.png']),
        (Path('a/1.png'), ['1.png']),
        (['a/2.png', 'a/1.png'], ['2.png', '1.png']),
        (['a/1.png', 'b/1.png'], ['a/1.png', 'b/1.png']),
        (('b', 'a/1.png'), ['b/1.png', 'a/1.png']),
        (['a', 'a/1.png'], ['1.png', '2.png', '1_2.png']),
        (['a/1.png'] * 3, ['1.png', '1_2.png', '1_3.png']),
        ('*/1.png', ['a/1.png', 'b/1.png']),
        ('a/*', ['1.png', '2.png']),
        ('a/[2-9].png', ['2.png']),
        ('**/?.png', ['a/1.png', 'a/2.png', 'b/1.png']),
        (['a/2*', 'b'], ['a/2.png', 'b/1.png']),
        ([], []),
    ],
)
def test_names_of_files(photos, inputs, names):
    assert names_of(inputs) == names
    found = list(iterate(inputs))
    assert all(os.path.samefile(each.path, photos / each.path) for each in found)
    several = inputs if isinstance(inputs, list | tuple) else [inputs]
    assert names_of([os.path.abspath(each) for each in several]) == names


def test_a_file_whose_name_looks_like_a_pattern(photos):
    Path('a/1.png').rename('a/x[1].png')
    assert names_of('a/x[1].png') == ['x[1].png']
    assert names_of(iter(['a/x[1].png'])) == ['a/x[1].png']


def test_a_folder_whose_name_looks_like_an_image(photos):
    Path('b').rename('a/b.png')
    assert names_of('a/*') == ['1.png', '2.png']
    assert names_of('a/b.png') == ['1.png']


def test_a_number_that_is_taken(photos):
    Path('a/1_2.png').write_bytes(Path('a/1.png').read_bytes())
    assert names_of(['a', 'a/1.png']) == ['1.png', '1_2.png', '2.png', '1_2_2.png']


def test_links_are_followed(photos):
    Path('a/link').symlink_to(photos / 'b')
    assert names_of('a') == ['1.png', '2.png', 'link/1.png']


@pytest.mark.parametrize('kind', ['list', 'stdin'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_a_list(photos, monkeypatch, kind, encoding):
    Image.new('RGB', (3, 3)).save('b/é.png')
    lines = ['# comment', '', 'a/1.png ', 'b', 'b/*.png', f'{photos}/a/2.png', '../b/1.png']
    lines = lines if kind == 'list' else lines[:-1]
    content = '\r\n'.join(lines).encode(encoding if kind == 'list' else 'utf-8')
    expected = ['a/1.png', 'b/1.png', 'b/é.png', 'b/1_2.png', 'b/é_2.png']
    if kind == 'list':  # the last line is relative to the list
        Path('a/list.txt').write_bytes(content)
        assert names_of('a/list.txt') == [*expected, 'a/2.png', 'b/1_3.png']
        return
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(content)))
    rooted = str(photos / 'a/2.png').lstrip('/')
    assert names_of('-') == [*expected, rooted]
    assert iterate('-', allow_missing=True).count() is None


def test_stdin_is_read_as_it_comes(photos, monkeypatch):
    asked = []

    def lines():
        for name in ('a/1.png', 'a/2.png'):
            asked.append(name)
            yield f'{name}\n'

    monkeypatch.setattr('sys.stdin', lines())
    assert next(iterate('-')).path == 'a/1.png'
    assert asked == ['a/1.png']


@pytest.mark.follows('is a list too; write its lines into this one')
def test_a_list_in_a_list(photos):
    Path('inner.txt').write_text('a/2.png\n')
    Path('outer.txt').write_text('a/1.png\ninner.txt\n')
    with pytest.raises(ValueError, match="outer.txt: 'inner.txt' is a list too; write its lines"):
        iterate('outer.txt')
    Path('outer.txt').write_text('a/1.png\na/2.png\n')
    assert names_of('outer.txt') == ['1.png', '2.png']


def test_an_iterator_is_read_as_it_is_used(photos):
    used = []

    def images():
        for item in ('a/1.png', 'a/../b/1.png', np.zeros((4, 5, 3), np.uint8), 'b', 'a/1.png'):
            used.append(item)
            yield item

    found = iterate(images())
    assert not used
    assert next(found) == SourceImage('a/1.png', 'a/1.png')
    assert len(used) == 1
    assert next(found) == SourceImage('a/b/1.png', 'a/../b/1.png')
    assert [each.name for each in found] == ['000000', 'b/1.png', 'a/1_2.png']
    assert iterate(images(), allow_missing=True).count() is None
    assert len(used) == 5


def test_arrays_are_in_bgr(photos):
    rgb = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    found = [*iterate([rgb, tensor, Image.fromarray(rgb)], channel_order='rgb')]
    found += iterate([bgr, tensor.flip(0), Image.fromarray(rgb)])
    assert [each.name for each in found] == ['000000', '000001', '000002'] * 2
    assert all(np.array_equal(each.image, bgr) for each in found)
    assert image_name(found[1]) == '000001.jpg'
    assert iterate(bgr, allow_missing=True).count() == 1


@pytest.mark.follows('give a grey image as PIL.Image.fromarray(array)')
def test_a_grey_array():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    with pytest.raises(ValueError, match='give a grey image as PIL.Image.fromarray'):
        iterate(grey)
    (found,) = iterate(Image.fromarray(grey))
    assert np.array_equal(found.image, np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize(
    ('inputs', 'message'),
    [
        ('a/1.PNG', "'a/1.PNG' does not exist, but there is 'a/1.png', which differs in upper and"),
        (['a', 'c'], "'c' does not exist$"),
        ('a/*.gif', r"no image or video fits the pattern 'a/\*.gif'"),
        ('list.txt', "'a/9.png' does not exist"),
        ('none.txt', "'none.txt' does not exist"),
        ('clip.mp4', "'clip.mp4' does not exist"),
        ('file:///nowhere/x%20y.png', "'/nowhere/x y.png' does not exist"),
    ],
)
def test_what_does_not_exist_is_an_error_at_once(photos, inputs, message):
    Path('list.txt').write_text('a/1.png\na/9.png\na/2.png\n')
    with pytest.raises(MissingSourceError, match=message):
        iterate(inputs)


def test_what_does_not_exist_is_an_error_when_it_is_reached(photos):
    Path('list.txt').write_text('a/1.png\na/9.png\na/2.png\n')
    for inputs in ('list.txt', iter(['a/1.png', 'a/9.png', 'a/2.png'])):
        found = iterate(inputs, allow_missing=True)
        assert next(found).path == 'a/1.png'
        with pytest.raises(ImageError, match="'a/9.png' does not exist"):
            next(found)
        assert [each.path for each in found] == ['a/2.png']


@pytest.mark.follows("channel_order must be 'bgr' or 'rgb'")
def test_wrong_arguments(photos):
    image = np.zeros((4, 5, 3), np.uint8)
    for options, message in [
        (dict(channel_order='grb'), "channel_order must be 'bgr' or 'rgb', got 'grb'"),
        (dict(every=0), 'every must be an integer of at least 1, got 0'),
    ]:
        with pytest.raises(ValueError, match=message):
            iterate(image, **options)
    assert len(list(iterate(image, channel_order='rgb', every=1))) == 1
    for inputs, error in [
        (5, TypeError),
        (b'a/1.png', TypeError),
        ([['a/1.png']], TypeError),
        ([image, image / 255], ValueError),
        ('gs://bucket/a.png', ValueError),
        ('empty', ValueError),
    ]:
        Path('empty').mkdir(exist_ok=True)
        with pytest.raises(error):
            iterate(inputs)


# --- videos and URLs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('file', 'fourcc'), [('clip.mp4', 'mp4v'), ('clip.AVI', 'MJPG'), ('clip.webm', 'VP80')]
)
def test_frames_of_a_video(photos, file, fourcc):
    draw_video(photos / 'b' / file, fourcc=fourcc)
    assert iterate(f'b/{file}', allow_missing=True).count() == 60
    found = list(iterate(['a', f'b/{file}'], every=7))
    assert len(found) == iterate(['a', f'b/{file}'], every=7, allow_missing=True).count() == 2 + 9
    for number, source in enumerate(found[2:]):
        assert source[:3] == (f'b/{file}', f'b/{file}', 7 * number)
        assert abs(source.image.mean() - 28 * number) < 3
    assert image_name(found[3]) == f'b/{file}/000007.jpg'


@pytest.mark.parametrize(('file', 'fourcc'), [('clip.avi', 'MJPG'), ('clip.mkv', 'mp4v')])
def test_a_truncated_video(photos, file, fourcc):
    draw_video(file, fourcc=fourcc)
    content = Path(file).read_bytes()
    Path(file).write_bytes(content[: len(content) // 2])
    found, frames = iterate([file, 'a']), []
    with pytest.raises(ImageError, match=rf'video {file} ends after \d+ of 60 frames: it is tr'):
        frames += found
    rest = list(found)
    assert [each.name for each in rest] == ['a/1.png', 'a/2.png']


def test_what_is_no_video(photos):
    Path('clip.mp4').write_text('<html>')
    found = iterate(['clip.mp4', 'a/1.png'])
    with pytest.raises(ImageError, match='video clip.mp4 cannot be opened: it is damaged, no vid'):
        next(found)
    assert next(found).name == 'a/1.png'
    assert iterate('clip.mp4', allow_missing=True).count() == 0


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path == '/cut.png':
            self.send_response(200)
            self.send_header('Content-Length', '1000')
            self.end_headers()
            self.wfile.write(b'PNG')
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(photos):
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=str(photos))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_urls(photos, server):
    draw_video('clip.mp4')
    Path('a/1.png').rename('a/1 2.png')
    urls = [f'{server}/a/1 2.png?size=3', f'{server}/b/1.png', f'{server}/clip.mp4']
    found = list(islice(iterate([*urls, 'b']), 4))
    assert [each.name for each in found] == [
        *('127.0.0.1/a/1 2.png', '127.0.0.1/b/1.png', '127.0.0.1/clip.mp4', '127.0.0.1/clip.mp4')
    ]
    assert found[0].path == f'{server}/a/1%202.png?size=3'
    assert [each.frame for each in found] == [None, None, 0, 1]
    assert abs(found[3].image.mean() - 4) < 3
    assert iterate(urls, allow_missing=True).count() == 62


@pytest.mark.parametrize(
    ('name', 'reason'), [('none', 'HTTP Error 404'), ('cut', 'IncompleteRead')]
)
def test_urls_that_cannot_be_read(server, name, reason):
    with pytest.raises(ImageError, match=f'{name}.png cannot be read .{reason}'):
        read_image(f'{server}/{name}.png')


def test_a_file_url(photos):
    (found,) = iterate((photos / 'a/1.png').as_uri())
    assert found == SourceImage('1.png', str(photos / 'a/1.png'))
