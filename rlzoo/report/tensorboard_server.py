"""TensorBoard for one folder, for this machine only unless another address is asked for."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO

from rlzoo.errors import FailedError, RefusedError

LOCAL = "localhost"
PORT = 6006
START_SECONDS = 90.0


def is_local(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return host == LOCAL or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def free_port(host: str, port: int) -> int:
    """Return ``port``, or any free one for 0.

    Raises:
        RefusedError: If the port is taken, or the host is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            if os.name != "nt":  # there it would take ports of others
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RefusedError(
                f"Port {port} of {host} is taken, perhaps by another TensorBoard.",
                todo=f"Choose another one, such as --port {port + 1}, or any free one: --port 0.",
            ) from None
        reason = error.strerror or str(error)
        raise RefusedError(
            f"Cannot listen on {host}, port {port}: {reason}.",
            "The host is localhost or an address of this machine; ports below 1024 need rights.",
        ) from None


class TensorBoard:
    """TensorBoard for a folder; a context manager that ends it.

    Args:
        folder: The folder.
        host: Address to listen on.
        port: Port; 0 takes a free one.

    Raises:
        RefusedError: If the port is taken or the host is no address of this machine.
        FailedError: If TensorBoard does not start.
    """

    def __init__(self, folder: Path, host: str = LOCAL, port: int = PORT) -> None:
        self.folder, self.host = folder, host
        self.port = free_port(host, port)
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self._process = self._start()

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        host = {"0.0.0.0": LOCAL, "::": LOCAL}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def check(self) -> None:
        """Raise if TensorBoard has ended.

        Raises:
            FailedError: With the last line that it said.
        """
        if self._process.poll() is not None:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()
            raise FailedError(
                f"TensorBoard ended with exit code {self._process.returncode}.",
                f"It said: {lines[-1][:300]}" if lines else "",
            )

    def restart(self) -> None:
        """Start it again: it keeps the columns of the first version of a folder otherwise."""
        self._end()
        self._process = self._start()

    def stop(self) -> None:
        """End it."""
        self._end()
        self._log.close()

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(self.folder)]
        command += ["--host", self.host, "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        try:
            self._wait()
        except BaseException:
            self._end()
            raise
        return self._process

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        # Not through a proxy that the environment names: the page is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < deadline:
            self.check()
            try:
                with opener.open(self.url, timeout=5):
                    return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.2)
        raise FailedError(f"TensorBoard did not answer within {START_SECONDS:.0f} seconds.")

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
