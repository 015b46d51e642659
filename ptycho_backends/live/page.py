"""A page on this machine that shows the picture of a folder while it grows."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
DEFAULT_PORT = 8643

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>ptycho-backends watch</title>
<style>
body { font: 16px/1.4 sans-serif; margin: 1.5em; color: #222; background: #fff; }
img { max-width: 100%; max-height: 80vh; min-height: 30vh; object-fit: contain; image-rendering: pixelated; }
#behind { color: #a00; }
</style>
<p id="figures">waiting for the first frames</p>
<p id="behind"></p>
<img id="picture" alt="amplitude and phase">
<script>
const every = 1000;
async function reload() {
  try {
    const found = await fetch("live.json", {cache: "no-store"});
    if (found.ok) {
      const live = await found.json();
      const seconds = value => value === null ? "?" : value.toFixed(2) + " s";
      document.getElementById("figures").textContent =
        `${live.frames} frames in the image, ${live.rate} a second; latency ${seconds(live.latency_p50_s)} (p50), ` +
        `${seconds(live.latency_p95_s)} (p95)` + (live.ended ? "; ended" : "");
      document.getElementById("behind").textContent = live.message || "";
      const picture = document.getElementById("picture");
      const next = new Image();
      next.onload = () => { picture.src = next.src; };
      next.src = "reconstruction.png?" + Date.now();
    }
  } catch (error) {
    document.getElementById("behind").textContent = "the program has ended";
  }
  setTimeout(reload, every);
}
reload();
</script>
</html>
"""

# Files that are shown, and their kinds; everything else in the folder is not.
SHOWN = {"/reconstruction.png": "image/png", "/live.json": "application/json"}


@contextmanager
def served_page(folder: Path, port: int) -> Iterator[str]:
    """Serve the page of `folder` on 127.0.0.1 while the block runs; yields its address.

    Parameters
    ----------
    folder : Path
        With `reconstruction.png` and `live.json`.
    port : int
        0 takes a free one. One that is in use is replaced by a free one, which the log states.
    """
    handler = type("Handler", (_Handler,), {"folder": folder})
    try:
        server = ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        log.warning("port %d: %s; the page has another one", port, error.strerror or error)
        server = ThreadingHTTPServer((HOST, 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    folder: Path

    def do_GET(self) -> None:
        """Answer with the page, the picture or the figures."""
        # a page of another site, to whose name an attacker gave this address, must not read the picture
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        path = self.path.partition("?")[0]
        if host not in (HOST, "localhost"):
            self._answer(403, "text/plain", b"want the host 127.0.0.1\n")
        elif path == "/":
            self._answer(200, "text/html; charset=utf-8", PAGE.encode())
        elif path in SHOWN:
            try:
                content = (self.folder / path[1:]).read_bytes()
            except OSError:
                self._answer(404, "text/plain", b"not there yet\n")
            else:
                self._answer(200, SHOWN[path], content)
        else:
            self._answer(404, "text/plain", b"want /, /reconstruction.png or /live.json\n")

    def _answer(self, code: int, kind: str, content: bytes) -> None:
        # a browser that has gone away is no trouble
        with suppress(ConnectionError):
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *values: Any) -> None:
        """Log requests at debug level, instead of printing them."""
        log.debug(format, *values)
