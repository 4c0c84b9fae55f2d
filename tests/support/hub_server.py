"""A server that speaks as much of the Hugging Face Hub's protocol as a download needs, on this machine."""

import hashlib
import http.server
import threading


class Hub:
    """Serves `files`, {'OWNER/REPOSITORY': bytes of model.safetensors}, at every revision.

    As the hub does with large files, an address of a repository answers with the commit, SHA-256 and size and redirects to
    where the content lies. `renamed` maps old names of repositories to new ones, `sent` overrides the content.
    """

    def __init__(self, **files):
        self.files, self.requests, self.renamed, self.commit = files, [], {}, '1' * 40
        self.sent = None
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                hub.answer(self)

            def do_GET(self):
                hub.answer(self)

            def log_message(self, *arguments):
                pass

        self.http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.http.server_port}'
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request):
        self.requests.append(f'{request.command} {request.path}')
        repository, _, rest = request.path.removeprefix('/').partition('/resolve/')
        if request.path.startswith('/content/'):
            return self.send(request, self.files[request.path.removeprefix('/content/')])
        if repository in self.renamed:
            request.send_response(307)
            request.send_header('Location', f'/{self.renamed[repository]}/resolve/{rest}')
        elif repository not in self.files or not rest.endswith('/model.safetensors'):
            request.send_response(404)
            request.send_header('X-Error-Code', 'EntryNotFound' if repository in self.files else 'RepoNotFound')
        else:
            body = self.files[repository]
            digest = hashlib.sha256(body).hexdigest()
            request.send_response(302)
            for name, value in {
                'Location': f'http://localhost:{self.http.server_port}/content/{repository}',  # another host, as in life
                'X-Repo-Commit': self.commit,
                'X-Linked-Etag': f'"{digest}"',
                'X-Linked-Size': str(len(body)),
                'ETag': f'"{digest}"',
            }.items():
                request.send_header(name, value)
        request.send_header('Content-Length', '0')
        request.end_headers()

    def send(self, request, body):
        body = self.sent or body
        request.send_response(200)
        request.send_header('Content-Length', str(len(body)))
        request.end_headers()
        if request.command == 'GET':
            request.wfile.write(body)

    def close(self):
        self.http.shutdown()
        self.http.server_close()
