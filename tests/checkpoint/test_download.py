"""Checkpoints by address, from a local web server with faults."""

from __future__ import annotations

import contextlib
import http.server
import io
import logging
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from ghmdet.checkpoint import download as module
from ghmdet.checkpoint.download import TIMEOUT_VARIABLE, load_from_http, load_from_local
from ghmdet.checkpoint.reader import TRUST_VARIABLE
from ghmdet.engine import CheckpointError
from tests.hostile import Call, write


def answer(site, request):
    site.asked.append(request.path)
    fault = site.fault
    if fault.isdecimal():
        return request.send_error(int(fault))
    if fault in ('redirect', 'loop'):
        site.fault = fault.removesuffix('redirect')
        request.send_response(302)
        request.send_header('Location', request.path.removeprefix('/old'))
        return request.end_headers()
    if fault == 'silent':
        return site.stop.wait(20)
    content = (site.folder / Path(request.path.partition('?')[0]).name).read_bytes()
    request.send_response(200)
    if fault != 'no length':
        request.send_header('Content-Length', str(len(content)))
    request.end_headers()
    if fault == 'trickle':
        return any(request.wfile.write(bytes([b])) and site.stop.wait(0.02) for b in content)
    half = fault in ('cut', 'no length', 'stall')
    request.wfile.write(content[: len(content) // 2] if half else content)
    return fault == 'stall' and site.stop.wait(20)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A web server: its folder, its fault, the paths requested. Downloads go to an empty cache."""
    site = SimpleNamespace(folder=tmp_path / 'www', fault='', asked=[], stop=threading.Event())
    site.folder.mkdir()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path / 'mmengine'))
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    monkeypatch.delenv(TIMEOUT_VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, '_hub_dir', None)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(OSError):  # the client has closed the connection
                answer(site, self)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        site.address, site.server = f'http://127.0.0.1:{running.server_port}', running
        yield site
        site.stop.set()
        running.shutdown()


def publish(folder, content, right=True, name='model'):
    """Save under a name that carries the hash (or another one); return the name."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    digits = sha256(buffer.getvalue()).hexdigest()[:8] if right else '0123abcd'
    (folder / f'{name}-{digits}.pth').write_bytes(buffer.getvalue())
    return f'{name}-{digits}.pth'


def cache():
    return Path(os.environ['TORCH_HOME'], 'hub', 'checkpoints')


def cached():
    """Names of all files in the cache, whatever they are."""
    return sorted(file.name for file in cache().parents[1].rglob('*') if file.is_file())


ONES = {'state_dict': {'w': torch.ones(2000)}}


def check_ones(loaded):
    assert loaded['state_dict']['w'].tolist() == [1] * 2000


def test_a_file_is_downloaded_once_and_read(site, caplog):
    name = publish(site.folder, ONES)
    url = f'{site.address}/{name}'
    for _ in range(2):
        check_ones(CheckpointLoader.load_checkpoint(url, map_location='cpu', logger='silent'))
    assert site.asked == [f'/{name}']
    assert cached() == [name]


@pytest.mark.parametrize('terminal', [True, False])
def test_progress(site, monkeypatch, terminal):
    lines, stream = [], io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, 'stderr', stream)
    monkeypatch.setattr(module, 'print_log', lambda text, **_: lines.append(text))
    name = publish(site.folder, ONES)
    load_from_http(f'{site.address}/{name}')
    size = (site.folder / name).stat().st_size / 1000
    start, end = lines
    assert start.startswith(f'downloading {site.address}/{name} ({size / 1000:.1f} MB)')
    assert start.endswith(f' to {cache()}/{name}')
    assert end.startswith(f'downloaded {name}: {size / 1000:.1f} MB in ')
    bar = stream.getvalue()
    assert ('━' in bar, f'{size:.1f}/{size:.1f} kB' in bar) == (terminal, terminal)


def test_names_without_a_hash_are_told_apart_by_the_whole_address(site):
    for number, query in ((1.0, 'a'), (2.0, 'b'), (1.0, 'a')):
        torch.save({'state_dict': {'w': torch.tensor(number)}}, site.folder / 'epoch_12.pth')
        loaded = load_from_http(f'{site.address}/epoch_12.pth?run={query}')
        assert loaded['state_dict']['w'].item() == number
    assert site.asked == ['/epoch_12.pth?run=a', '/epoch_12.pth?run=b']
    assert len(cached()) == 2
    assert all(re.fullmatch(r'epoch_12\.[0-9a-f]{8}\.pth', name) for name in cached())


def test_redirect_is_followed(site):
    name = publish(site.folder, ONES)
    site.fault = 'redirect'
    check_ones(load_from_http(f'{site.address}/old/{name}'))
    assert site.asked == [f'/old/{name}', f'/{name}']


@pytest.mark.parametrize(
    ('name', 'digits'),
    [
        ('resnet50-0676ba61.pth', '0676ba61'),
        ('retinanet_ghm_r50_fpn_1x_coco_20200130-a437fda3.pth', 'a437fda3'),
        ('m-0123456789abcdef.safetensors', '0123456789abcdef'),
        ('resnet-20220105.pth', ''),
        ('m-20991505.pth', ''),
        ('m-21000105.pth', '21000105'),
        ('model-00001-of-00002.safetensors', ''),
        ('epoch_12.pth', ''),
        ('resnet50-deadbeef', ''),
    ],
)
def test_which_part_of_a_name_is_a_hash(name, digits):
    assert module.hash_in_name(name) == digits


# --- faults: an error, no file is left, and the second try works ---------------------------------

FAULTS = {
    '404': 'the server answered 404 Not Found',
    '403': 'the server answered 403 Forbidden',
    '500': 'the server answered 500 Internal Server Error',
    'loop': 'the server answered 302 .*infinite loop',
    'cut': r'the connection ended after \d+ bytes of \d+\.',
    'no length': r'wrong hash: the name says \w{8}, but the \d+ bytes received have',
    'silent': r'timed out \(the limit is 1 s; GHMDET_DOWNLOAD_TIMEOUT sets another\)',
    'stall': r'timed out \(the limit is 1 s',
    'trickle': r'fewer than 1000 bytes per second arrived \(the limit is 1 s',
}


@pytest.mark.parametrize('fault', FAULTS)
def test_fault_of_the_server(site, monkeypatch, fault):
    if fault in ('silent', 'stall', 'trickle'):
        monkeypatch.setenv(TIMEOUT_VARIABLE, '1')
    name = publish(site.folder, ONES)
    url, site.fault = f'{site.address}/{name}', fault
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=FAULTS[fault]) as caught:
        load_from_http(url)
    assert time.monotonic() - start < 15
    check_advice(str(caught.value), url, name)
    assert cached() == []
    site.fault = ''
    monkeypatch.delenv(TIMEOUT_VARIABLE, raising=False)
    check_ones(load_from_http(url))


def check_advice(message, url, name):
    place = cache() / name
    assert f'cannot download {url}: ' in message
    assert f'get {url} by other means and put it at {place} (' in message
    assert f'(its SHA-256 must begin with {module.hash_in_name(name)})' in message


@pytest.mark.parametrize(
    ('content', 'fault', 'message'),
    [
        (b'', '', 'the connection ended after 0 bytes of a file'),
        (b'<html>Log in first</html>', '', "begins with b'<html>.*it was deleted"),
        (None, 'no length', 'truncated or damaged.*came from {}/model.pth; it was deleted'),
    ],
)
def test_what_is_no_checkpoint_is_not_kept(site, content, fault, message):
    torch.save(ONES, site.folder / 'model.pth')
    whole, site.fault = (site.folder / 'model.pth').read_bytes(), fault
    (site.folder / 'model.pth').write_bytes(whole if content is None else content)
    with pytest.raises(CheckpointError, match=message.format(site.address)):
        load_from_http(f'{site.address}/model.pth')
    assert cached() == []
    (site.folder / 'model.pth').write_bytes(whole)
    site.fault = ''
    check_ones(load_from_http(f'{site.address}/model.pth'))


def test_interrupt_leaves_nothing(site, monkeypatch):
    name = publish(site.folder, ONES)
    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load_from_http(f'{site.address}/{name}')
    assert cached() == []
    check_ones(load_from_http(f'{site.address}/{name}'))


def test_what_a_killed_download_left_is_removed_when_it_is_old(site):
    cache().mkdir(parents=True)
    for name, age in (('old', 4000), ('new', 10)):
        part = cache() / f'{name}.pth.0123.ghmdet.part'
        part.write_text('x')
        os.utime(part, (time.time() - age,) * 2)
    name = publish(site.folder, ONES)
    check_ones(load_from_http(f'{site.address}/{name}'))
    assert cached() == [name, 'new.pth.0123.ghmdet.part']


def test_damaged_file_in_the_cache_is_told_and_fetched_again(site, monkeypatch):
    lines = []
    monkeypatch.setattr(module, 'print_log', lambda text, **_: lines.append(text))
    name = publish(site.folder, ONES)
    place = cache() / name
    place.parent.mkdir(parents=True)
    place.write_bytes((site.folder / name).read_bytes()[:500])
    check_ones(load_from_http(f'{site.address}/{name}'))
    digits = module.hash_in_name(name)
    assert lines[0].startswith(f'{place}: its SHA-256 does not begin with {digits}')
    assert lines[0].endswith('it is damaged and downloaded again')


@pytest.mark.follows('To run without a download, get', ' (its SHA-256 must begin with')
def test_offline_the_file_that_was_put_in_its_place_is_used(site):
    name = publish(site.folder, ONES)
    with socket.create_server(('127.0.0.1', 0)) as free:
        url = f'http://127.0.0.1:{free.getsockname()[1]}/{name}'
    with pytest.raises(CheckpointError, match=r'download http.*Connection refused\.') as caught:
        load_from_http(url)
    check_advice(str(caught.value), url, name)
    place = Path(str(caught.value).partition('put it at ')[2].partition(' (its')[0])
    place.write_bytes((site.folder / name).read_bytes())
    check_ones(load_from_http(url))
    check_ones(load_from_local(str(site.folder / name)))


def test_certificate_that_is_not_trusted(site, tmp_path):
    key, cert = tmp_path / 'key.pem', tmp_path / 'cert.pem'
    command = f'openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=x -keyout {key}'
    try:
        subprocess.run([*command.split(), '-out', cert], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip('no openssl here to make a certificate')
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    site.server.socket = context.wrap_socket(site.server.socket, server_side=True)
    site.server.handle_error = lambda *_: None
    url = site.address.replace('http', 'https') + '/model-0123abcd.pth'
    with pytest.raises(CheckpointError, match='CERTIFICATE_VERIFY_FAILED') as caught:
        load_from_http(url)
    check_advice(str(caught.value), url, 'model-0123abcd.pth')


def test_redirect_from_https_to_http_is_not_followed():
    module._check_redirect('https://a/m.pth', 'https://b/m.pth')
    module._check_redirect('http://a/m.pth', 'https://b/m.pth')
    with pytest.raises(ValueError, match='redirects to http://b/m.pth, which is less secure'):
        module._check_redirect('https://a/m.pth', 'http://b/m.pth')
    with pytest.raises(ValueError, match='ftp://b'):
        module._check_redirect('http://a/m.pth', 'ftp://b/m.pth')


def test_cache_that_cannot_be_written(site, monkeypatch):
    (site.folder / 'file').write_text('x')
    monkeypatch.setenv('TORCH_HOME', str(site.folder / 'file'))
    with pytest.raises(CheckpointError, match='Not a directory'):
        load_from_http(f'{site.address}/model.pth')


@pytest.mark.parametrize('value', ['0', '-1', 'nan', 'inf', 'soon', ''])
def test_timeout_that_is_no_number_of_seconds(monkeypatch, value):
    monkeypatch.setenv(TIMEOUT_VARIABLE, value)
    with pytest.raises(CheckpointError, match=f'{TIMEOUT_VARIABLE} .* above 0, got .{value}.$'):
        load_from_http('http://a/model.pth')


@pytest.mark.parametrize(
    ('url', 'told'),
    [
        ('http://a', 'does not end in the name of one'),
        ('http://a/b/..', 'does not end in the name of one'),
        ('http://no-such.invalid/m.pth', r'there is no network, or no such host \(.*put it'),
        ('http:///model.pth', 'cannot download http:.*put it at'),
        ('http://127.0.0.1:x/m.pth', 'cannot download http:.*put it at'),
        ('http://a/m m.pth', 'cannot download http:.*put it at'),
    ],
)
def test_addresses_of_no_file(site, url, told):
    with pytest.raises(CheckpointError, match=told):
        load_from_http(url)
    assert cached() == []


def test_hostile_file_is_refused_and_kept_for_a_look(site, tmp_path):
    marker = tmp_path / 'marker'
    write(site.folder / 'evil.pth', Call(os.system, f'touch {marker}'))
    with pytest.raises(CheckpointError, match=r'posix\.system'):
        load_from_http(f'{site.address}/evil.pth')
    assert not marker.exists()
    assert len(cached()) == 1


# --- several processes ------------------------------------------------------------------------


def test_the_other_processes_wait_for_the_download_or_its_failure(site, monkeypatch):
    name, waited = publish(site.folder, ONES), []
    monkeypatch.setattr(module, 'barrier', lambda: waited.append(len(cached())))
    monkeypatch.setattr(module, 'get_dist_info', lambda: (0, 2))
    site.fault = '404'
    with pytest.raises(CheckpointError, match='404'):
        load_from_http(f'{site.address}/{name}')
    site.fault = ''
    for rank in (0, 1):
        monkeypatch.setattr(module, 'get_dist_info', lambda rank=rank: (rank, 2))
        check_ones(load_from_http(f'{site.address}/{name}'))
    assert waited == [0, 1, 1]
    assert site.asked == [f'/{name}'] * 2


def test_downloads_of_one_file_at_once_do_not_meet(site):
    name = publish(site.folder, {'state_dict': {'w': torch.ones(300_000)}})
    with ThreadPoolExecutor(6) as pool:
        for loaded in pool.map(load_from_http, [f'{site.address}/{name}'] * 6):
            assert loaded['state_dict']['w'].sum() == 300_000
    assert cached() == [name]


# --- other schemes ----------------------------------------------------------------------------


def test_named_models(site, monkeypatch):
    weights = {'backbone.w': torch.ones(2), 'head.w': torch.zeros(1)}
    name = publish(site.folder, weights)
    table = {'net50': f'{site.address}/{name}', 'local': 'mine.pth'}
    for kind in ('torchvision', 'external', 'mmcls'):
        monkeypatch.setattr(mmengine_checkpoint, f'get_{kind}_models', lambda: table)
    renamed = {'old50': 'net50'}
    monkeypatch.setattr(mmengine_checkpoint, 'get_deprecated_model_names', lambda: renamed)

    def load(name):
        return CheckpointLoader.load_checkpoint(name, logger='silent')

    site.fault = '404'
    with pytest.raises(CheckpointError, match='404') as caught:
        load('torchvision://net50')
    check_advice(str(caught.value), table['net50'], name)
    site.fault = ''
    for address in ('torchvision://net50', 'modelzoo://net50', 'openmmlab://old50'):
        assert list(load(address)) == ['backbone.w', 'head.w']
    assert load('open-mmlab://net50')['backbone.w'].tolist() == [1, 1]
    assert list(load('mmcls://net50')['state_dict']) == ['w']
    home = Path(os.environ['MMENGINE_HOME'])
    home.mkdir(exist_ok=True)
    torch.save({'state_dict': {'m': torch.ones(1)}}, home / 'mine.pth')
    assert list(load('open-mmlab://local')['state_dict']) == ['m']
    for wrong, message in (
        ('torchvision://net5', r"no model 'net5' for torchvision://; did you mean net50"),
        ('mmcls://xyz', r"no model 'xyz' for mmcls://$"),
        ('torchvison://net50', r'is not one of http://.*torchvision://, open-mmlab://.*path alone'),
    ):
        with pytest.raises(CheckpointError, match=message):
            load(wrong)


def test_local_file_whose_name_has_another_hash_loads_with_a_warning(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(module, 'print_log', lambda text, level, **_: lines.append((level, text)))
    for right in (True, False):
        name = publish(tmp_path, ONES, right)
        check_ones(load_from_local(str(tmp_path / name)))
    ((level, text),) = lines
    assert level == logging.WARNING
    assert text.startswith(f'{tmp_path / name}: its SHA-256 does not begin with 0123abcd')
