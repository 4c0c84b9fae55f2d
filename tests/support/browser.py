"""Chromium without a window, driven through a pipe by its DevTools protocol: real clicks, keys and files."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time

import pytest

needs_chromium = pytest.mark.skipif(not shutil.which('chromium'), reason='no chromium on the PATH')
_KEYS = {'Tab': 9, 'Enter': 13, ' ': 32, 'ArrowLeft': 37, 'ArrowRight': 39, 'Escape': 27, 'Home': 36, 'End': 35}
_FLAGS = (
    *('--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-sync'),
    *('--disable-component-update', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'),
)


class Browser:
    """A page in a browser; `problems` are the messages of its console and its uncaught errors."""

    def __init__(self, profile, *, width=1200, height=900, dark=False):
        theirs, self._write = os.pipe()
        self._read, answers = os.pipe()

        def connect():  # Chromium reads commands from 3 and writes answers to 4
            first, second = os.dup(theirs), os.dup(answers)
            os.dup2(first, 3)
            os.dup2(second, 4)

        command = ['chromium', *_FLAGS, '--remote-debugging-pipe', f'--user-data-dir={profile}', 'about:blank']
        self._process = subprocess.Popen(command, preexec_fn=connect, pass_fds=(3, 4), stderr=subprocess.DEVNULL)
        os.close(theirs)
        os.close(answers)
        self._numbers, self._buffer, self._session = itertools.count(1), b'', None
        self.problems = []
        pages = self._call('Target.getTargets')['targetInfos']
        target = next(page['targetId'] for page in pages if page['type'] == 'page')
        self._session = self._call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'DOM', 'Log'):
            self._call(f'{domain}.enable')
        self.resize(width, height)
        self._call(
            'Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}]
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError, AssertionError):
            self._session = None
            self._call('Browser.close')
        os.close(self._write)
        os.close(self._read)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def open(self, address):
        self._call('Page.navigate', url=address)
        self.wait("document.readyState === 'complete'")

    def resize(self, width, height):
        self._call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def evaluate(self, expression):
        """Returns the JSON-like value of an expression, which may be a promise."""
        result = self._call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in result, result['exceptionDetails']
        return result['result'].get('value')

    def wait(self, expression, seconds=60):
        """Waits until an expression is true; the timeout only keeps a test from hanging."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f'{expression} is not true after {seconds} s\n{self.problems}'
            time.sleep(0.05)

    def press(self, key, times=1):
        for _ in range(times):
            text = {'text': '\r'} if key == 'Enter' else {'text': key} if len(key) == 1 else {}
            code = {'windowsVirtualKeyCode': _KEYS[key]} if key in _KEYS else {}
            self._call('Input.dispatchKeyEvent', type='keyDown', key=key, **text, **code)
            self._call('Input.dispatchKeyEvent', type='keyUp', key=key, **code)

    def type(self, text):
        self._call('Input.insertText', text=text)

    def click(self, selector):
        """Clicks in the middle of an element, as a mouse does."""
        where = self._middle(selector)
        for kind in ('mousePressed', 'mouseReleased'):
            self._call('Input.dispatchMouseEvent', type=kind, x=where[0], y=where[1], button='left', clickCount=1)

    def choose_files(self, selector, *paths):
        """Puts files into a file input, as the dialog of the system does."""
        root = self._call('DOM.getDocument')['root']['nodeId']
        node = self._call('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
        self._call('DOM.setFileInputFiles', nodeId=node, files=[str(path) for path in paths])

    def drop_files(self, selector, *paths):
        """Drags files over an element and drops them there."""
        where = self._middle(selector)
        data = {'items': [], 'files': [str(path) for path in paths], 'dragOperationsMask': 1}
        for kind in ('dragEnter', 'dragOver', 'drop'):
            self._call('Input.dispatchDragEvent', type=kind, x=where[0], y=where[1], data=data)

    def accessibility_tree(self):
        """Returns what a screen reader gets: nodes with a role and a name."""
        return [node for node in self._call('Accessibility.getFullAXTree')['nodes'] if not node['ignored']]

    def screenshot(self, path, whole=True):
        picture = self._call('Page.captureScreenshot', captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture['data']))

    def _middle(self, selector):
        return self.evaluate(
            f'(() => {{ const one = document.querySelector({json.dumps(selector)}); one.scrollIntoView({{block: "center"}}); '
            'const box = one.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2] })()'
        )

    def _call(self, method, **parameters):
        number = next(self._numbers)
        message = {'id': number, 'method': method, 'params': parameters}
        if self._session:
            message['sessionId'] = self._session
        data = json.dumps(message).encode() + b'\0'
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            while b'\0' not in self._buffer:
                part = os.read(self._read, 2**20)
                assert part, f'chromium ended with exit code {self._process.wait()}'
                self._buffer += part
            text, _, self._buffer = self._buffer.partition(b'\0')
            answer = json.loads(text)
            if answer.get('id') == number:
                assert 'error' not in answer, answer['error']
                return answer['result']
            if answer.get('method') in ('Runtime.exceptionThrown', 'Runtime.consoleAPICalled', 'Log.entryAdded'):
                self.problems.append(answer['params'])
