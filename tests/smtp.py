"""An SMTP server that stores the messages it receives."""

from __future__ import annotations

import socketserver
import threading
from email import message_from_bytes, policy
from email.message import EmailMessage


class _Handler(socketserver.StreamRequestHandler):
    server: SmtpServer

    def handle(self) -> None:
        self._reply("220 ready")
        for line in self.rfile:
            command = line[:4].upper()
            if command == b"DATA":
                self._reply("354 go ahead")
                message = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.messages.append(message_from_bytes(message, policy=policy.default))
            self._reply("221 bye" if command == b"QUIT" else "250 ok")

    def _reply(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class SmtpServer(socketserver.ThreadingTCPServer):
    """A server on a free local port that runs during its ``with`` block."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.messages: list[EmailMessage] = []

    def __enter__(self) -> SmtpServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
