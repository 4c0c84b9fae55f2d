"""The serve command in a process of its own."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import tempfile

from commands_support import command

DIGITS = 'resnet_jax/resnet8.digits'


class ServeProcess:
    """A running server; a context manager that ends it."""

    def __init__(self, *arguments, program='', **environment):
        """Starts it, and waits until it serves.

        Args:
          program: Python code that does something before the command.
        """
        options = command('serve.py', *arguments, '--port=0', **environment)
        if program:
            options['args'][1:2] = ['-c', f"{program}\nfrom resnet_jax.cli.main import main\nmain('serve')"]
        self.errors = tempfile.TemporaryFile('w+')  # noqa: SIM115 (closed at the end)
        self.process = subprocess.Popen(**options, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if line.startswith('Serving at '):
                break
        else:
            raise AssertionError(f'exit code {self.process.wait()}\n{self.lines}\n{self.stderr()}')
        self.address = self.lines[-1].removeprefix('Serving at ')
        self.port = int(self.address.rpartition(':')[2])

    def stderr(self):
        self.errors.seek(0)
        return self.errors.read()

    def ask(self, path, body=None, kind='application/json', method=None, **headers):
        """Returns the status, the headers and the body of an answer."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=120)
        with contextlib.closing(connection):
            headers = {'Content-Type': kind, **{name.replace('_', '-'): value for name, value in headers.items()}}
            connection.request(method or ('GET' if body is None else 'POST'), path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def json(self, *arguments, **options):
        """Returns the status and the JSON of an answer."""
        status, _, content = self.ask(*arguments, **options)
        return status, json.loads(content)

    def connect(self):
        return contextlib.closing(socket.create_connection(('127.0.0.1', self.port), timeout=120))

    def stop(self, number=signal.SIGTERM):
        """Sends a signal; returns the exit code, what is left of the output, and the error output."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=120)
        return self.process.returncode, rest, self.stderr()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()
