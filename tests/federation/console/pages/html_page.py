"""A parsed HTML page, for questions of the tests."""

from html.parser import HTMLParser
from typing import Any


class Page(HTMLParser):
    """Tags and text of a page; fails on tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.source = ""
        self.labelled: set[int] = set()
        self._open: list[str] = []

    @classmethod
    def of(cls, source: Any) -> "Page":
        page = cls()
        page.source = source
        page.feed(source)
        page.close()
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if "label" in self._open:
            self.labelled.add(len(self.tags))
        self.tags.append((tag, dict(attrs)))
        if tag not in ("area", "br", "hr", "img", "input", "link", "meta"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, (
            f"</{tag}> closes {self._open[-4:]} at {self.getpos()}"
        )
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def left_open(self) -> list[str]:
        return self._open

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            found
            for name, found in self.tags
            if name == tag and all(found.get(k) == v for k, v in wanted.items())
        ]

    def value(self, name: str) -> str:
        return str(self.all("input", name=name)[0]["value"])

    @property
    def actions(self) -> set[str]:
        return {str(form["action"]) for form in self.all("form") if form.get("method") == "post"}
