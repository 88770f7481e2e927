"""Pages of HTML: what a parser finds in them, and what a browser shows."""

import html
import html.parser
import json
import re
import shutil
import subprocess

import pytest

VOID = {"meta", "img", "br", "link", "input", "hr"}
SECONDS = 120
_MEASURE = """
<script>
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument;
  page.querySelectorAll("details").forEach(one => { one.open = true; });
  const root = page.documentElement, pictures = [...page.images];
  document.body.textContent = "MEASURED" + JSON.stringify({
    width: root.clientWidth, scrolled: root.scrollWidth, height: root.scrollHeight,
    pictures: pictures.length, shown: pictures.filter(one => one.naturalWidth > 0).length,
  }) + "END";
});
</script>
"""


class Page(html.parser.HTMLParser):
    """What a page holds.

    Attributes:
      text: Its text.
      ids: The ids of its elements.
      attributes: Pairs (tag, attributes) of its elements.
    """

    def __init__(self, source):
        super().__init__()
        self.text, self.ids, self.attributes = "", [], []
        self._open = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.attributes.append((tag, found))
        if "id" in found:
            self.ids.append(found["id"])
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.text += data

    def check(self):
        """Checks what every page must have: language, title, no script, no reference outside."""
        tags = [tag for tag, _ in self.attributes]
        assert ("html", {"lang": "en"}) in self.attributes
        assert "title" in tags
        assert not {"script", "link", "iframe", "object", "embed", "base"} & set(tags)
        assert [found for tag, found in self.attributes if found.get("charset") == "utf-8"]
        assert [found for tag, found in self.attributes if found.get("name") == "viewport"]
        for tag, found in self.attributes:
            assert not [name for name in found if name.startswith("on")], (tag, found)
            assert found.get("href", "#").startswith("#")
            assert found.get("src", "data:").startswith("data:")
            if tag == "img":
                assert found["alt"]
        assert len(self.ids) == len(set(self.ids))


def _chromium():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if not found:
        pytest.skip("chromium is not installed")
    return [found, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]


def _framed(source, width, height, folder, script=""):
    # A window is at least 500 pixels wide; a frame is as narrow as a phone.
    page = folder / f"framed-{width}.html"
    page.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><body style="margin:0"><iframe width="{width}" '
        f'height="{height}" style="border:0;display:block" srcdoc="{html.escape(source)}">'
        f"</iframe>{script}",
        encoding="utf-8",
    )
    return page.as_uri()


def measure(source, width, folder):
    """Returns the widths of a page in a browser, and how many of its pictures are shown."""
    page = _framed(source, width, 800, folder, _MEASURE)
    command = [*_chromium(), "--virtual-time-budget=20000", "--dump-dom", page]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=SECONDS)
    return json.loads(re.search(r"MEASURED(.*)END", done.stdout)[1])


def screenshot(source, width, height, folder):
    """Returns a picture of the top of a page."""
    from PIL import Image

    page = _framed(source, width, height, folder)
    path = folder / f"page-{width}.png"
    subprocess.run(
        [*_chromium(), f"--screenshot={path}", f"--window-size={max(width, 500)},{height}", page],
        capture_output=True,
        check=True,
        timeout=SECONDS,
    )
    return Image.open(path).convert("RGB").crop((0, 0, width, height))
