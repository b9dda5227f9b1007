"""Published checkpoints by a short name: fetched once, and compared with their first fetch."""

import http.server
import json
import threading

import pytest
import torch

from models import published
from models.checkpoint_file import read_checkpoint
from runtime import downloads


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A server of one checkpoint, which sit-xl-2 is for this test; its content can be changed."""
    torch.save({"ema": {"w": torch.ones(3)}}, tmp_path / "a.pt")

    class Site(http.server.BaseHTTPRequestHandler):
        content, length, asked = (tmp_path / "a.pt").read_bytes(), None, 0

        def do_GET(self):
            Site.asked += 1
            self.send_response(200)
            self.send_header("Content-Length", str(Site.length or len(Site.content)))
            self.end_headers()
            self.wfile.write(Site.content)

        def log_message(self, *words):
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Site.url = f"http://127.0.0.1:{server.server_address[1]}/a.pt"
    monkeypatch.setitem(published.PUBLISHED, "sit-xl-2", published.Published(Site.url, "a test"))
    monkeypatch.setenv("LAYERSYNC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    yield Site
    server.shutdown()
    server.server_close()


def test_it_is_fetched_once_under_both_names(site, tmp_path, capsys):
    for name in ("sit-xl-2", "SiT-XL-2-256x256.pt", "sit-xl-2"):
        assert torch.equal(read_checkpoint(name)["ema"]["w"], torch.ones(3))
    assert site.asked == 1
    record = json.loads((tmp_path / "cache" / "checksums.json").read_text())
    assert record["sit-xl-2"]["source"] == site.url
    said = capsys.readouterr().err
    assert f"fetching {site.url}" in said and f"SHA-256 {record['sit-xl-2']['sha256']}" in said
    torch.save({"ema": {"w": torch.zeros(3)}}, "SiT-XL-2-256x256.pt")  # one's own comes first
    assert torch.equal(read_checkpoint("SiT-XL-2-256x256.pt")["ema"]["w"], torch.zeros(3))


@pytest.mark.parametrize("where", ["on the disk", "at its publisher"])
def test_another_content_is_refused(site, tmp_path, where):
    read_checkpoint("sit-xl-2")
    torch.save({"ema": {"w": torch.zeros(3)}}, tmp_path / "b.pt")
    cached, other = tmp_path / "cache" / "sit-xl-2.pt", (tmp_path / "b.pt").read_bytes()
    if where == "on the disk":
        cached.write_bytes(other)
    else:
        cached.unlink()
        site.content = other
    with pytest.raises(ValueError, match=r"sit-xl-2: .* has SHA-256 \w+\.\.\., at its first fetch"):
        read_checkpoint("sit-xl-2")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dict(content=b"<html>moved</html>"), "what came is no checkpoint"),
        (dict(length=10**6), "the connection ended after|IncompleteRead"),
        (dict(length=10**18), "more than are free"),
    ],
)
def test_what_is_not_whole_is_not_kept(site, tmp_path, change, reason):
    for name, value in change.items():
        setattr(site, name, value)
    with pytest.raises(ValueError, match=f"sit-xl-2: it cannot be fetched from .*({reason})"):
        read_checkpoint("sit-xl-2")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_without_a_network_it_is_said_where_the_file_may_be_put(site, tmp_path, monkeypatch):
    gone = published.Published("http://127.0.0.1:9/a.pt", "nobody listens there")
    monkeypatch.setitem(published.PUBLISHED, "sit-xl-2", gone)
    with pytest.raises(ValueError, match=rf"put it at {tmp_path}/cache/sit-xl-2\.pt"):
        read_checkpoint("sit-xl-2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        read_checkpoint("sit-xl-2")


def test_a_name_that_is_not_known_is_answered_with_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="sit-xl-3: no such file; short names are sit-xl-2, layer"):
        read_checkpoint("sit-xl-3")


def test_the_cache_lies_where_the_user_says(monkeypatch):
    monkeypatch.delenv("LAYERSYNC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(downloads.cache_folder()) == "/x/layersync"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(downloads.cache_folder()) == "/home/me/.cache/layersync"
