"""A preprocessor of mdBook: brings the files of the repository that pages link to into the book.

Pages link to each other and to other files by relative paths, so that the links also work in a checkout and on a forge.
SUMMARY.md may name pages outside of docs/; in the book they have their paths in the repository. Any other file or folder
that a page links to becomes a page that shows it. A link to nothing, or to a page that SUMMARY.md lacks, is an error.
"""

import json
import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")
LANGUAGES = {".py": "python", ".rs": "rust", ".js": "js", ".mjs": "js", ".jsx": "js", ".yml": "yaml", ".toml": "ini"}


class Book:
    def __init__(self, items):
        self.items = items
        self.files = {}  # The chapters that this program adds, by path in the repository.
        self.pages = {path for path, _ in self.chapters(items)}

    def chapters(self, items):
        """The paths of chapters in the repository, and the chapters."""
        for item in items:
            chapter = item["Chapter"] if "Chapter" in item else None
            if chapter and chapter["path"]:
                yield os.path.relpath(DOCS / chapter["source_path"], ROOT), chapter
            if chapter:
                yield from self.chapters(chapter["sub_items"])

    def process(self):
        for path, chapter in list(self.chapters(self.items)):
            chapter["path"] = place(path)
            chapter["content"] = LINK.sub(lambda link: self.link(path, link), chapter["content"])
        if self.files:
            # mdBook takes the depth in the table of contents from the number.
            number = sum(1 for item in self.items if "Chapter" in item and item["Chapter"]["number"]) + 1
            chapters = [self.files[path] for path in sorted(self.files)]
            for index, chapter in enumerate(chapters, 1):
                chapter["number"] = [number, index]
            all_files = {**page("Files of the repository", "", None), "number": [number]}
            all_files["sub_items"] = [{"Chapter": chapter} for chapter in chapters]
            self.items.append({"Chapter": all_files})

    def link(self, source, link):
        """The link in the book for a link on the page with this path."""
        target = os.path.normpath(os.path.join(os.path.dirname(source), link[1]))
        if (ROOT / target / "README.md").is_file():
            target = os.path.join(target, "README.md")
        if target == "docs/SUMMARY.md":
            there = self.items[0]["Chapter"]["path"]  # The site shows the table of contents beside every page.
        elif target in self.pages:
            there = place(target)
        elif target.startswith("docs/") and not target.endswith(".md") and (ROOT / target).is_file():
            return link[0]  # mdBook copies it.
        else:
            there = self.show(source, target)
        return f"]({os.path.relpath(there, os.path.dirname(place(source)) or '.')}{link[2] or ''})"

    def show(self, source, target):
        """Adds a page that shows a file or a folder, and returns its path."""
        file, there = ROOT / target, f"files/{target}.md"
        if target in self.files:
            return there
        if not file.exists() or target.startswith("..") or target.endswith(".md"):
            sys.exit(f"{source} links to {target}, which is no page of SUMMARY.md and no other file of the repository")
        self.files[target] = page(target, f"# `{target}`\n\n", there)
        if file.is_dir():
            for entry in sorted(entry for entry in file.iterdir() if entry.is_file() and entry.name[0] != "."):
                shown = os.path.relpath(self.show(target, f"{target}/{entry.name}"), os.path.dirname(there))
                self.files[target]["content"] += f"- [{entry.name}]({shown})\n"
        else:
            language = LANGUAGES.get(file.suffix, file.suffix[1:])
            self.files[target]["content"] += f"`````{language}\n{file.read_text(encoding='utf-8')}`````\n"
        return there


def place(path):
    """The path in the book of a page in the repository."""
    return path.removeprefix("docs/")


def page(name, content, path):
    return {
        "name": name,
        "content": content,
        "number": None,
        "sub_items": [],
        "path": path,
        "source_path": path,
        "parent_names": [],
    }


if sys.argv[1:2] != ["supports"]:
    _context, book = json.load(sys.stdin)
    Book(book["items"]).process()
    json.dump(book, sys.stdout)
