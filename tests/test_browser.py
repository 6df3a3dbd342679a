"""What `browser_page` watches is seen: else a page that asks the world for its fonts would pass."""

import pytest

from tests.browser import served

pytestmark = pytest.mark.browser


def test_requests_to_other_machines_and_errors_are_noted(browser_page, tmp_path):
    (tmp_path / "other.js").write_text("document.body.append('loaded'); throw new Error('broken on purpose')")
    (tmp_path / "index.html").write_text(
        "<body><img src='http://pictures.example/a.png'><script src='other.js'></script>"
        "<script>new WebSocket('ws://sockets.example/')</script>"
    )
    with served(tmp_path) as address:
        browser_page.page.goto(address)
        assert browser_page.page.inner_text("body").strip() == "loaded"
    assert sorted(browser_page.outside) == ["http://pictures.example/a.png", "ws://sockets.example/"]
    assert any("broken on purpose" in error for error in browser_page.errors)
