"""A headless Chromium, driven through its DevTools over a pair of pipes."""

import base64
from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

FLAGS = (
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic',
    '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage',
    '--remote-debugging-pipe', '--window-size=1280,1000',
)


def program() -> str | None:
  """Path of Chromium, or None where it is not installed."""
  return shutil.which('chromium') or shutil.which('chromium-browser')


class Page:
  """One tab.

  Attributes:
    console: its errors, and requests to the network.
  """

  def __init__(self, to, found):
    """Opens a tab; `to` and `found` are the pipes, to the browser and from it."""
    self._to, self._found = to, found
    self._id, self._session = 0, None
    self.console = []
    target = self.call('Target.createTarget', url='about:blank')
    self._session = self.call(
        'Target.attachToTarget', targetId=target['targetId'], flatten=True,
    )['sessionId']
    for domain in ('Page', 'Runtime', 'Log', 'Network'):
      self.call(f'{domain}.enable')

  def call(self, method, **params):
    """The result of a method of the DevTools protocol."""
    self._id += 1
    message = {'id': self._id, 'method': method, 'params': params}
    if self._session:
      message['sessionId'] = self._session
    self._to.write(json.dumps(message).encode() + b'\0')
    self._to.flush()
    while True:
      answer = self._read()
      if answer.get('id') == self._id:
        assert 'error' not in answer, answer
        return answer['result']

  def _read(self):
    data = bytearray()
    while (byte := self._found.read(1)) != b'\0':
      assert byte, 'Chromium has ended'
      data += byte
    message = json.loads(data)
    if message.get('method') in ('Log.entryAdded', 'Runtime.exceptionThrown',
                                 'Network.requestWillBeSent'):
      self.console.append(message)
    return message

  def open(self, file):
    """Opens a file and waits until it is loaded."""
    self.call('Page.navigate', url=pathlib.Path(file).as_uri())
    while self.run('document.readyState') != 'complete':
      pass

  def run(self, script):
    """The value of an expression."""
    found = self.call(
        'Runtime.evaluate', expression=script, returnByValue=True,
        awaitPromise=True)
    assert 'exceptionDetails' not in found, found['exceptionDetails']
    return found['result'].get('value')

  def key(self, name):
    """Presses a key."""
    code = {'Enter': 13, 'Tab': 9, 'Escape': 27}.get(name, 0)
    how = dict(key=name, code=name, windowsVirtualKeyCode=code)
    text = {'text': '\r'} if name == 'Enter' else {}
    self.call('Input.dispatchKeyEvent', type='keyDown', **how, **text)
    self.call('Input.dispatchKeyEvent', type='keyUp', **how)

  def point_at(self, selector):
    """Moves the mouse over an element."""
    x, y = self.run(
        f'(() => {{ const e = document.querySelector({json.dumps(selector)});'
        ' e.scrollIntoView({block: "center"});'
        ' const r = e.getBoundingClientRect();'
        ' return [r.x + r.width / 2, r.y + r.height / 2]; })()')
    self.call('Input.dispatchMouseEvent', type='mouseMoved', x=x, y=y)

  def prefer(self, scheme):
    """Sets the user's preference, 'light' or 'dark'."""
    self.call('Emulation.setEmulatedMedia', features=[
        {'name': 'prefers-color-scheme', 'value': scheme}])

  def resize(self, width, height, density=1.0):
    """Sets the size in CSS pixels, and the device's pixels of each."""
    self.call(
        'Emulation.setDeviceMetricsOverride', width=width, height=height,
        deviceScaleFactor=density, mobile=width < 600)
    # The page takes the size over with its next frame; the one after has its layout.
    self.run('new Promise((f) => requestAnimationFrame(() => requestAnimationFrame(f)))')

  def picture(self, selector='html', margin=0):
    """PNG of an element with a margin in CSS pixels; None where there is none.

    It must be within the window.
    """
    box = self.run(
        f'(() => {{ const e = document.querySelector({json.dumps(selector)});'
        ' if (!e) return null;'
        ' const r = e.getBoundingClientRect(); return [r.x + scrollX,'
        ' r.y + scrollY, r.width, r.height]; })()')
    if box is None:
      return None
    left, top = max(box[0] - margin, 0), max(box[1] - margin, 0)
    clip = dict(x=left, y=top, width=box[0] - left + box[2] + margin,
                height=box[1] - top + box[3] + margin, scale=1)
    found = self.call(
        'Page.captureScreenshot', format='png', clip=clip)
    return base64.b64decode(found['data'])


@contextlib.contextmanager
def started() -> Iterator[Page]:
  """Starts a browser for the block and yields a page of it."""
  from_us, to_browser = os.pipe()
  from_browser, to_us = os.pipe()
  # What its own processes still write as they end must not fail a test.
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    process = subprocess.Popen(
        # DevTools speak over the descriptors 3 and 4.
        ['bash', '-c', f'exec "$0" "$@" 3<&{from_us} 4>&{to_us}', program(),
         *FLAGS, f'--user-data-dir={profile}/chromium'],
        pass_fds=(from_us, to_us), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(from_us)
    os.close(to_us)
    try:
      with open(to_browser, 'wb') as to, open(from_browser, 'rb') as found:
        yield Page(to, found)  # closed pipes tell the browser to end
    finally:
      try:
        process.wait(timeout=20)
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
