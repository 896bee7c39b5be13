"""Stands between a program and PostgreSQL, and can cut a connection so that what was sent is done
but never answered: the one case in which a program can't know what became of its unit."""
import os
import select
import socket
import threading
import time


class Proxy:
    def __init__(self, folder, target):
        self.target = target
        self.path = os.path.join(folder, ".s.PGSQL.5432")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(16)
        self.cuts = 0        # how many of the next sendings are to be done and not answered
        self.was_cut = 0
        self.clients = []
        self.lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, n=1):
        with self.lock:
            self.cuts = n

    def drop(self):
        """Cuts all connections; what PostgreSQL is at, it brings to its end."""
        with self.lock:
            for client in self.clients:
                try:
                    client.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            self.clients = []

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        server = socket.socket(socket.AF_UNIX)
        server.connect(self.target)
        with self.lock:
            self.clients.append(client)
        started = False
        try:
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if server in ready:
                    data = server.recv(65536)
                    if not data:
                        return
                    client.sendall(data)
                if client in ready:
                    data = client.recv(65536)
                    if not data:
                        return
                    server.sendall(data)
                    if started and self._takes():
                        time.sleep(0.1)  # PostgreSQL does it
                        return
                    started = True
        except OSError:
            pass
        finally:
            client.close()
            server.close()

    def _takes(self):
        with self.lock:
            if self.cuts <= 0:
                return False
            self.cuts -= 1
            self.was_cut += 1
            return True

    def close(self):
        self.listener.close()
        os.unlink(self.path)
