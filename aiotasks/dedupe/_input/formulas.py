"""Links in the formulas of a sheet: what its cells show is only their labels."""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree as ET


_WORKBOOK = "xl/workbook.xml"
_TARGETS = "xl/_rels/workbook.xml.rels"
_SHEET = "{*}sheets/{*}sheet"
_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_PLACE = re.compile(r"([A-Z]{1,3})(\d+)", re.ASCII)
_FORMULA = "HYPERLINK("
_ALPHABET = 26


def links_of(content: bytes, sheet: str) -> Mapping[tuple[int, int], str]:
    """Return the formulas of a sheet that are links, by row from 1 and column from 0.

    Only workbooks of today have them in a form that is easy to read; others have none.
    """
    if not content.startswith(b"PK"):
        return {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            data = archive.read(_path_of(archive, sheet))
            # The whole sheet is read again only if it is worth it.
            return dict(_links(data)) if _FORMULA.encode() in data else {}
    except (KeyError, ET.ParseError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        # `zipfile` raises NotImplementedError for a compression that it does not know.
        return {}


def _path_of(archive: zipfile.ZipFile, sheet: str) -> str:
    sheets = {
        each.get("name"): each.get(_ID) for each in _parsed(archive, _WORKBOOK).iterfind(_SHEET)
    }
    targets = {each.get("Id"): each.get("Target", "") for each in _parsed(archive, _TARGETS)}
    target = targets[sheets[sheet]]
    return target[1:] if target.startswith("/") else f"xl/{target}"


def _parsed(archive: zipfile.ZipFile, path: str) -> ET.Element:
    # Expat bounds the growth of entities, and loads nothing from elsewhere.
    return ET.fromstring(archive.read(path))  # noqa: S314


def _links(data: bytes) -> Iterator[tuple[tuple[int, int], str]]:
    for _, cell in ET.iterparse(io.BytesIO(data)):  # noqa: S314
        if not cell.tag.endswith("}c"):
            continue
        formula = (cell.findtext("{*}f") or "").strip()
        place = _PLACE.fullmatch(cell.get("r", ""))
        if place and formula.upper().startswith(_FORMULA):
            yield (int(place[2]), _index_of(place[1])), f"={formula}"
        cell.clear()


def _index_of(letters: str) -> int:
    index = 0
    for letter in letters:
        index = index * _ALPHABET + ord(letter) - ord("A") + 1
    return index - 1
