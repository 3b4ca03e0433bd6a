"""An HTTP server that tests copy: ``python server.py PORT [SECONDS]`` answers POST requests after a while."""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers everything with 200 and an empty object, over connections that stay open."""

    protocol_version, wbufsize, seconds = "HTTP/1.1", -1, 0.0

    def do_GET(self):
        self.answer(200)

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(self.seconds)
        self.answer(self.status())

    def status(self):
        return 200

    def answer(self, status, content=b"{}"):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """Says nothing of clients that have gone."""

    def handle_error(self, *_):
        pass


def serve(port, handler=Handler):
    Server(("127.0.0.1", int(port)), handler).serve_forever()


if __name__ == "__main__":
    port, *seconds = sys.argv[1:3]
    Handler.seconds = float(*seconds)
    serve(port)
