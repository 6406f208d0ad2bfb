"""A Google Cloud Storage in memory: as much of its JSON API as is used here.

An upload is atomic, and whoever lists afterwards sees it. There is no way to
rename or to copy an object: what is not here is refused and remembered.
"""

import base64
import contextlib
import http.server
import itertools
import json
import re
import secrets
import threading
from typing import Any, NamedTuple
import urllib.parse

_PAGE = 5  # names in a page of a listing: few, so that clients ask for the next


class Object(NamedTuple):
  """One version of an object."""

  data: bytes
  generation: int


class Failure(Exception):
  """Carries the HTTP status of the answer."""


class Server(http.server.ThreadingHTTPServer):
  """Serves in a `with` block. Objects by 'BUCKET/NAME'; every bucket exists."""

  daemon_threads = True

  def __init__(self):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.url = f'http://127.0.0.1:{self.server_port}'
    self.objects: dict[str, Object] = {}
    self.read: list[str] = []  # objects whose content was sent
    self.refused: list[str] = []  # requests for what is not here
    self.uploads: dict[str, tuple[str, bytearray]] = {}  # path, what has come
    self._generations = itertools.count(1)
    self._lock = threading.Lock()

  def __enter__(self):
    threading.Thread(target=self.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *exception):
    self.shutdown()
    self.server_close()

  def environment(self) -> dict[str, str]:
    """Environment variables that send a process's clients here."""
    return {
        'STORAGE_EMULATOR_HOST': self.url,  # gcsfs and google-cloud-storage
        'FSSPEC_GCS_TOKEN': 'anon',
        # gcsfs would ask for the kind of the bucket, in gRPC over TLS.
        'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
        'TENSORSTORE_GCS_HTTP_URL': self.url,
        'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'anyone',
    }

  def get(self, path: str, **conditions: str) -> Object:
    found = self.objects.get(path)
    _check(found, conditions, unchanged=304)
    if not found:
      raise Failure(404)
    return found

  def put(self, path: str, data: bytes, **conditions: str) -> Object:
    with self._lock:
      _check(self.objects.get(path), conditions, unchanged=412)
      self.objects[path] = Object(data, next(self._generations))
      return self.objects[path]

  def delete(self, path: str) -> None:
    if not self.objects.pop(path, None):
      raise Failure(404)

  def page(
      self, bucket: str, *, prefix='', delimiter='', pageToken='',
      maxResults='1000', **_,
  ) -> dict[str, Any]:
    """A page of a listing; names are folded after the delimiter."""
    entries = {}  # by name: the object, or None where names were folded
    for path, found in sorted(dict(self.objects).items()):
      if path.startswith(f'{bucket}/{prefix}'):
        name = path.removeprefix(f'{bucket}/')
        end = name.find(delimiter, len(prefix)) + 1 if delimiter else 0
        entries[name[:end] or name] = None if end else _describe(path, found)
    rest = [name for name in entries if name > pageToken]
    names = rest[:min(_PAGE, int(maxResults))]
    return {
        'kind': 'storage#objects',
        'items': [entries[name] for name in names if entries[name]],
        'prefixes': [name for name in names if not entries[name]],
        **({'nextPageToken': names[-1]} if len(names) < len(rest) else {}),
    }


class _Handler(http.server.BaseHTTPRequestHandler):
  """One connection."""

  protocol_version = 'HTTP/1.1'
  disable_nagle_algorithm = True
  server: Server

  def log_message(self, *args):
    """Logs nothing."""

  def handle(self):
    with contextlib.suppress(ConnectionError):  # the client has gone
      super().handle()

  def do_GET(self):
    length = int(self.headers.get('Content-Length', 0))
    body = self.rfile.read(length)
    if len(body) < length:
      raise ConnectionError  # an upload that was cut off makes no object
    try:
      status, headers, answer = self._answer(body)
    except Failure as e:
      status, headers, answer = e.args[0], {}, b''
    if not isinstance(answer, bytes):
      answer = json.dumps(answer).encode()
    self.send_response(status)
    for key, value in (headers | {'Content-Length': len(answer)}).items():
      self.send_header(key, str(value))
    self.end_headers()
    self.wfile.write(answer)

  do_POST = do_DELETE = do_GET

  def _answer(self, body: bytes) -> tuple[int, dict[str, Any], Any]:
    """Status, headers and body."""
    url = urllib.parse.urlsplit(self.path)
    query = dict(urllib.parse.parse_qsl(url.query))
    match self.command, *map(urllib.parse.unquote, url.path.split('/')[1:]):
      case 'GET', 'storage', 'v1', 'b', bucket:
        return 200, {}, {'kind': 'storage#bucket', 'name': bucket}
      case 'GET', 'storage', 'v1', 'b', bucket, 'o':
        return 200, {}, self.server.page(bucket, **query)
      case 'GET', *_, 'storage', 'v1', 'b', bucket, 'o', name:
        found = self.server.get(f'{bucket}/{name}', **query)
        if query.get('alt') == 'media':
          self.server.read.append(f'{bucket}/{name}')
          return self._media(found)
        return 200, {}, _describe(f'{bucket}/{name}', found)
      case 'DELETE', 'storage', 'v1', 'b', bucket, 'o', name:
        self.server.delete(f'{bucket}/{name}')
        return 204, {}, b''
      case 'DELETE', 'upload', 'storage', 'v1', 'b', bucket, 'o':
        del self.server.uploads[query['upload_id']]
        return 499, {}, b''  # as Google does
      case 'POST', 'upload', 'storage', 'v1', 'b', bucket, 'o':
        return self._upload(bucket, query, body)
    self.server.refused.append(f'{self.command} {self.path}')
    raise Failure(403)

  def _media(self, found: Object):
    headers = {'X-Goog-Generation': found.generation}
    wanted, size = self.headers.get('Range'), len(found.data)
    if not wanted:
      return 200, headers, found.data
    first, last = wanted.removeprefix('bytes=').split('-')
    first, last = int(first), min(int(last or size), size - 1)
    if first > last:
      raise Failure(416)
    headers['Content-Range'] = f'bytes {first}-{last}/{size}'
    return 206, headers, found.data[first:last + 1]

  def _upload(self, bucket: str, query: dict[str, str], body: bytes):
    kind, uploads = query['uploadType'], self.server.uploads
    if 'upload_id' in query:
      path, received = uploads[query['upload_id']]
      received += body
      if not self.headers['Content-Range'].endswith(f'/{len(received)}'):
        return 308, {'Range': f'bytes=0-{len(received) - 1}'}, b''
      body = bytes(received)
    elif kind == 'multipart':
      described, body = _split(self.headers.get_boundary().encode(), body)
      path = f'{bucket}/{json.loads(described)["name"]}'
    else:
      path = f'{bucket}/{query["name"]}'
      if kind == 'resumable':
        upload = secrets.token_hex(8)
        uploads[upload] = path, bytearray()
        place = f'{self.server.url}{self.path}&upload_id={upload}'
        return 200, {'Location': place}, b''
    return 200, {}, _describe(path, self.server.put(path, body, **query))


def _check(found: Object | None, conditions: dict[str, str], unchanged: int):
  """Generation 0 stands for an object that does not exist."""
  generation = found.generation if found else 0
  if int(conditions.get('ifGenerationMatch', generation)) != generation:
    raise Failure(412)
  if int(conditions.get('ifGenerationNotMatch', -1)) == generation:
    raise Failure(unchanged)


def _describe(path: str, found: Object) -> dict[str, str]:
  # Here, as it is installed with gcsfs, without which nothing calls this.
  import google_crc32c
  bucket, _, name = path.partition('/')
  return {
      'kind': 'storage#object', 'bucket': bucket, 'name': name,
      'size': str(len(found.data)), 'generation': str(found.generation),
      'crc32c': base64.b64encode(
          google_crc32c.Checksum(found.data).digest()).decode(),
  }


def _split(boundary: bytes, body: bytes) -> tuple[bytes, bytes]:
  """The two parts of an upload, without their headers."""
  bar = b'--' + re.escape(boundary)
  first, second = rb'(\r?\n).*?\1\1(.*?)\1', rb'\1.*?\1\1(.*)\1'
  whole = bar + first + bar + second + bar + rb'--\s*'
  return re.fullmatch(whole, body, re.DOTALL).group(2, 3)
