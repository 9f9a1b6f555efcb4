"""`ghmdet.files`: text in any encoding, and names from other systems."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from ghmdet.files import (
    decode_text,
    explain_look_alike,
    find_look_alike,
    read_lines,
    read_text,
)

NFC, NFD = 'caf\u00e9.jpg', 'cafe\u0301.jpg'
FORM = 'in the Unicode normal form (both look the same)'
CASE = 'in upper and lower case'


@pytest.mark.parametrize(
    'encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32']
)
@pytest.mark.parametrize('line_end', ['\n', '\r\n', '\r'])
def test_lists_of_any_system(tmp_path, monkeypatch, encoding, line_end):
    text = line_end.join(['\u732b', '', 'caf\u00e9 au lait ', '  dog\u2028', ''])
    (tmp_path / 'a.txt').write_bytes(text.encode(encoding))
    assert read_lines(tmp_path / 'a.txt') == ['\u732b', 'caf\u00e9 au lait', 'dog']
    monkeypatch.setenv('HOME', str(tmp_path))
    assert read_text('~/a.txt').count('\n') == 4
    assert '\r' not in read_text('~/a.txt')


def test_what_is_not_the_declared_encoding():
    """The declared one is not obeyed where the file is UTF-8, except by two bytes in an Asian one.

    0xC3 0xA8 is U+00E8 in UTF-8 and U+732B in GBK.
    """
    assert decode_text(b'\xc3\xa8', 'a', 'windows-1252') == '\u00e8'
    assert decode_text(b'\xc3\xa8', 'a', 'GBK') == '\u732b'
    assert decode_text('\u732b'.encode(), 'a', 'GBK') == '\u732b'
    assert decode_text(b'', 'a', 'GBK') == decode_text(b'', 'a') == ''


@pytest.mark.parametrize(
    ('content', 'encoding', 'words'),
    [
        (
            b'a\nb\xe9c',
            'utf-8',
            'a.txt: expected text in UTF-8, but byte 0xe9 at offset 3 in line 2 is not (invalid '
            'continuation byte); if it is text in another encoding, save it as UTF-8',
        ),
        (b'\xff\xfea\0b', 'utf-8', 'in UTF-16-LE, but byte 0x62 at offset 4 in line 1 is not'),
        (b'\xff', 'gb2312', 'in GB18030, but byte 0xff at offset 0'),
        (b'\xff', 'klingon', "a.txt: declares the unknown encoding 'klingon'; save it as UTF-8"),
        (b'\xff', 'base64', "declares the unknown encoding 'base64'"),
    ],
)
def test_text_that_cannot_be_decoded(tmp_path, content, encoding, words):
    with pytest.raises(ValueError, match='^a.txt: ') as caught:
        decode_text(content, 'a.txt', encoding)
    assert words in str(caught.value)
    assert decode_text('\u00e9\u732b'.encode(), 'a.txt', encoding) == '\u00e9\u732b'  # as advised


@pytest.mark.parametrize(
    ('there', 'asked', 'differs'),
    [
        ('train/a.jpg', 'train/A.JPG', CASE),
        ('Train/a.jpg', 'train/a.jpg', CASE),
        (f'train/{NFC}', f'train/{NFD}', FORM),
        (f'train/{NFD}', f'train/{NFC}', FORM),
        (f'{NFD}/a.jpg', f'{NFC}/A.jpg', f'{FORM} and {CASE}'),
        (f'train/{NFD}', f'train/{NFC.upper()}', f'{FORM} and {CASE}'),
        ('train/a.jpg', r'train\a.jpg', r'in \ for /'),
        ('train/a.jpg', r'.\train\a.jpg', r'in \ for /'),
        ('train/deep/a.jpg', r'Train\deep/a.jpg', rf'in \ for / and {CASE}'),
        (r'train\a.jpg', 'train/a.jpg', r'in \ for /'),
        (r'x/train\deep\a.jpg', 'x/train/deep/A.jpg', rf'in \ for / and {CASE}'),
        ('Stra\u00dfe.jpg', 'strasse.jpg', CASE),
    ],
)
def test_look_alikes(tmp_path, monkeypatch, there, asked, differs):
    monkeypatch.chdir(tmp_path)
    Path(there).parent.mkdir(parents=True, exist_ok=True)
    Path(there).touch()
    assert find_look_alike(asked) == there
    assert explain_look_alike(asked) == f', but there is {there!r}, which differs {differs}'
    absolute = os.path.join(tmp_path, asked)
    assert find_look_alike(absolute) == os.path.join(tmp_path, there)
    assert Path(find_look_alike(Path(absolute))).exists()


def test_what_has_no_look_alike(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('A.jpg', 'a.JPG', 'b'):
        Path(name).touch()
    Path('link').symlink_to('gone')
    nowhere = ('a.jpg', 'c', 'b/c', 'gone/b', '', 'x' * 5000, 'a\0', '\ud800', 's3://a/B', 'C:\\b')
    for name in nowhere:
        assert find_look_alike(name) is None
        assert explain_look_alike(name) == ''
    for name in ('b', './b', 'link', './link', str(tmp_path)):  # nothing differs
        assert explain_look_alike(name) == ''


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read all folders')
def test_a_folder_that_may_not_be_listed(tmp_path):
    (tmp_path / 'b').touch()
    tmp_path.chmod(0o300)
    assert find_look_alike(tmp_path / 'b') == str(tmp_path / 'b')
    assert find_look_alike(tmp_path / 'B') is None
    tmp_path.chmod(0o700)


def test_the_list_of_a_folder_is_kept_until_the_folder_changes(tmp_path, monkeypatch):
    listed = []
    listdir = os.listdir
    monkeypatch.setattr(os, 'listdir', lambda folder: listed.append(folder) or listdir(folder))
    (tmp_path / 'a').touch()
    os.utime(tmp_path, (1e9, 1e9))
    for _ in range(3):
        assert find_look_alike(tmp_path / 'B') is None
        assert find_look_alike(tmp_path / 'A') == str(tmp_path / 'a')
    assert listed == [str(tmp_path)]
    for name in 'bcd':  # within the same second
        (tmp_path / name).touch()
        assert find_look_alike(tmp_path / name.upper()) == str(tmp_path / name)


def test_normal_forms_are_as_meant():
    assert unicodedata.normalize('NFD', NFC) == NFD != NFC
