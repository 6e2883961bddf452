"""Pages shown in a real headless Chromium, in a frame of any width (its own window is never narrower than 500)."""

from __future__ import annotations

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DARK, LIGHT = "dark", "light"
SECONDS_ALLOWED = 120
# What is wider than the frame, what sticks out of it without scrolling, and text that another text lies on
FRAME = """<!DOCTYPE html><body style="margin:0">
<iframe src="{page}" width="{width}" height="{height}" style="border:0"></iframe><pre id="found"></pre><script>
const frame = document.querySelector("iframe");
function look() {{
  const page = frame.contentDocument, view = frame.contentWindow;
  const scrolls = (e) => e && (view.getComputedStyle(e).overflowX === "auto" || scrolls(e.parentElement));
  const all = [...page.querySelectorAll("body *")].filter((e) => !e.closest("svg") && e.getClientRects().length);
  const outside = all.filter((e) => !scrolls(e) && e.getBoundingClientRect().right > {width} + 1);
  const words = [...page.querySelectorAll(".chart svg text")].filter((e) => e.textContent.trim());
  const boxes = words.map((e) => [e.textContent, e.getBoundingClientRect()]);
  const covered = [];
  for (const [a, s] of boxes) for (const [b, t] of boxes)
    if (a < b && s.left < t.right - 1 && t.left < s.right - 1 && s.top < t.bottom - 1 && t.top < s.bottom - 1)
      covered.push(a + " / " + b);
  const holes = [];
  for (const grid of page.querySelectorAll(".charts, .facts")) {{
    const edge = grid.getBoundingClientRect().right, rows = {{}};
    for (const e of grid.children) {{
      const box = e.getBoundingClientRect();
      if (box.width) rows[box.top] = Math.max(rows[box.top] || 0, box.right);
    }}
    for (const [top, right] of Object.entries(rows)) if (edge - right > 2) holes.push(top + ": " + (edge - right));
  }}
  document.querySelector("#found").textContent = JSON.stringify({{
    width: view.innerWidth, scroll_width: page.documentElement.scrollWidth, height: page.documentElement.scrollHeight,
    charts: page.querySelectorAll(".chart").length, drawn: page.querySelectorAll(".chart .overplot").length,
    outside: outside.map((e) => e.tagName + "." + e.className), covered, holes,
    title: page.title,
    pictures: [...page.images].filter((e) => e.complete && e.naturalWidth).length,
    scheme: view.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light",
    paper: view.getComputedStyle(page.body).backgroundColor, ink: view.getComputedStyle(page.body).color,
    pressed: (page.querySelector(".copy") || {{}}).textContent, pwned: Boolean(view.pwned), text: page.body.innerText,
  }});
}}
function press() {{
  const button = frame.contentDocument.querySelector(".copy");
  if (button) button.click();
}}
frame.onload = () => {{ setTimeout(press, 2900); setTimeout(look, 3000); }};
</script>"""


def chromium(url: str, *arguments: str, scheme: str = LIGHT) -> str:
    """Run Chromium on a page; returns what it printed."""
    assert CHROMIUM is not None
    command = [
        *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--disable-background-networking", f"--blink-settings=preferredColorScheme={int(scheme == LIGHT)}"),
        *("--virtual-time-budget=15000", *arguments, url),
    ]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS_ALLOWED)
    return finished.stdout


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """The URL of a server of ``directory`` on the loopback device."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=directory)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def seen(page: Path, width: int, scheme: str, screenshot: Path | None = None) -> dict[str, Any]:
    """What a page looks like ``width`` pixels wide."""
    height = 6000
    frame = page.with_name(f"frame-{width}.html")
    frame.write_text(FRAME.format(page=page.name, width=width, height=height))
    with served(page.parent) as url:
        size = f"--window-size={width},{height}"
        if screenshot is not None:
            chromium(f"{url}/{frame.name}", size, f"--screenshot={screenshot}", scheme=scheme)
        dom = chromium(f"{url}/{frame.name}", size, "--dump-dom", scheme=scheme)
    frame.unlink()
    found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None, dom
    assert found[1], "the page was not loaded"
    facts = json.loads(html.unescape(found[1]))
    assert isinstance(facts, dict)
    return facts
