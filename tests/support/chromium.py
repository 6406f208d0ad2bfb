"""A headless Chromium, driven through its DevTools over a pair of pipes."""

import base64
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


def program():
  """Path of Chromium, or None where it is not installed."""
  return shutil.which('chromium') or shutil.which('chromium-browser')


class Page:
  """One tab."""

  def __init__(self, to, found):
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
    self.call('Emulation.setEmulatedMedia', features=[
        {'name': 'prefers-color-scheme', 'value': scheme}])

  def picture(self, file, full=False):
    found = self.call(
        'Page.captureScreenshot', format='png', captureBeyondViewport=full)
    pathlib.Path(file).write_bytes(base64.b64decode(found['data']))


@contextlib.contextmanager
def started():
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
