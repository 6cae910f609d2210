"""From text files to records, one at a time: what cannot be parsed is named by its row, or the whole file is refused."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sftfilter.errors import DataError
from sftfilter.reading.places import File, explained, filesystem

MAX_LINE = 64 * 2**20
"""Bytes. A longer line is no row of anybody's: it is quarantined without being held in memory."""

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_CHUNK = 2**20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Broken:
    """Stands for a record that could not be parsed."""

    reason: str


@dataclass(frozen=True)
class Raw:
    """A record as it was read.

    Attributes:
        number: of the row in its file, from 1.
        record: a mapping if all is well; any JSON value or a `Broken` otherwise.
        text: the line it was parsed from; None where there is no such thing.
    """

    number: int
    record: Any
    text: bytes | None = None


@dataclass(frozen=True)
class Span:
    """A part of a text file that begins and ends with a line.

    Attributes:
        start: byte of the first line's beginning.
        stop: one past the last line's end.
        before: lines that the file has before `start`.
    """

    start: int
    stop: int
    before: int


def line_spans(file: File, size: int) -> list[Span]:
    """A text file in spans of about `size` bytes; a compressed one cannot be entered in its middle and has none.

    The file is read through once, so that every row keeps its number.
    """
    if compression(file) is not None:
        return []
    spans: list[Span] = []
    start, before, at, lines = 0, 0, 0, 0
    with _opened(file) as handle:
        while piece := handle.read(min(_CHUNK, size)):
            at += len(piece)
            lines += piece.count(b"\n")
            if at - start >= size and (end := piece.rfind(b"\n")) >= 0:
                stop = at - len(piece) + end + 1
                spans.append(Span(start, stop, before))
                start, before = stop, lines
    return [*spans, Span(start, at, before)] if at > start else spans


def json_lines(file: File, span: Span | None = None) -> Iterator[Raw]:
    """A record a line, of all lines or of those in a span; blank ones are skipped."""
    with _opened(file, span.start if span else 0) as handle:
        number = span.before if span else 0
        left = span.stop - span.start if span else None
        with _whole(file, lambda: number):
            while left != 0 and (raw := handle.readline(MAX_LINE)):
                number += 1
                skipped = _skip_line(handle) if len(raw) == MAX_LINE and not raw.endswith(b"\n") else 0
                left = left - len(raw) - skipped if left is not None else None
                if skipped:
                    yield Raw(number, Broken(f"longer than {MAX_LINE >> 20} MiB"), raw[:500])
                    continue
                if number == 1:
                    raw = raw.removeprefix(_BOM)
                if not raw.isspace():
                    yield Raw(number, _parsed(raw), raw)


def json_document(file: File) -> Iterator[Raw]:
    """The elements of one big list; a file that holds a record a line instead is read as such.

    Raises:
        DataError: it is neither.
    """
    with _opened(file) as handle:
        start = handle.peek(_CHUNK).removeprefix(_BOM).lstrip()
    if not start.startswith(b"["):
        if _over_lines(start):
            raise DataError(
                f"{file.shown}: one JSON object over several lines; wanted is a list of records, [{{...}}, {{...}}], or a "
                "record a line. If the records lie within the object, write that list to a file of its own."
            )
        yield from json_lines(file)
        return
    with _opened(file) as handle:
        number = 0
        with _whole(file, lambda: number):
            text = io.TextIOWrapper(handle, encoding="utf-8-sig", errors="surrogateescape")
            for record in _elements(text, file):
                number += 1
                yield Raw(number, record)


def csv_rows(file: File) -> Iterator[Raw]:
    """A record a row, with text values; an empty value is none at all. A `.tsv` file is split at tabs.

    Raises:
        DataError: a quote is open that should not be: how many rows it swallowed cannot be known.
    """
    csv.field_size_limit(MAX_LINE)  # the library's own 128 KiB would refuse a long answer
    with _opened(file) as handle:
        number = 0
        with _whole(file, lambda: number):
            text = io.TextIOWrapper(handle, encoding="utf-8-sig", errors="surrogateescape", newline="")
            rows = csv.reader(text, delimiter="\t" if ".tsv" in file.name.lower() else ",", strict=True)
            header = _csv_row(rows, file) or []
            if len(set(header)) < len(header):
                raise DataError(f"{file.shown}: two columns of the header have the same name: {', '.join(header)}")
            while True:
                number += 1
                start = rows.line_num + 1
                row = _csv_row(rows, file)
                if row is None:
                    return
                if len(row) == len(header):
                    yield Raw(number, {k: v or None for k, v in zip(header, row, strict=True)})
                elif row:
                    reason = f"{len(row)} values under {len(header)} columns"
                    if rows.line_num > start:
                        raise _quotes(file, start, rows.line_num, reason)
                    yield Raw(number, Broken(reason), repr(row).encode())


def _csv_row(rows: Any, file: File) -> list[str] | None:
    """The next row of a `csv.reader`; None at the end."""
    start = rows.line_num + 1
    try:
        return next(rows, None)
    except csv.Error as error:
        raise _quotes(file, start, max(start, rows.line_num), str(error)) from error


def _quotes(file: File, start: int, end: int, reason: str) -> DataError:
    where = f"line {start}" if start == end else f"lines {start} to {end}"
    return DataError(
        f"{file.shown}, {where}: the quotes do not match ({reason}), so how many rows lie there cannot be known. Mend the "
        'quotes (a value that holds one stands in quotes, with "" for each), or copy or download the file again.'
    )


def compression(file: File) -> str | None:
    """`gzip`, `zstd` or None, told by the first bytes, whatever the name says.

    Raises:
        DataError: it is a Parquet file.
    """
    with explained(file.uri):
        system, path = filesystem(file.uri)
        with system.open_input_stream(path, compression=None) as stream:
            start = stream.read(4)
    if start == b"PAR1":
        raise DataError(f"{file.shown}: the content is Parquet: rename the file, or set `format: parquet`")
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


@contextmanager
def _opened(file: File, start: int = 0) -> Iterator[io.BufferedReader]:
    packed = compression(file)
    with explained(file.uri):
        system, path = filesystem(file.uri)
        if start:
            stream = system.open_input_file(path)
            stream.seek(start)
        else:
            stream = system.open_input_stream(path, compression=packed)
    with io.BufferedReader(stream, _CHUNK) as handle:  # pyright: ignore[reportArgumentType]
        yield handle


@contextmanager
def _whole(file: File, number: Any) -> Iterator[None]:
    """Refuse a file that breaks off: how many rows are missing cannot be known, so the totals could not add up."""
    try:
        with explained(file.uri):
            yield
    except DataError as error:
        if isinstance(error.__cause__, OSError):
            raise DataError(
                f"{error}\nThe file breaks off or is damaged after row {number()}: copy or download it again."
            ) from error
        raise


def _skip_line(handle: io.BufferedReader) -> int:
    """Bytes up to the line's end."""
    skipped = 0
    while rest := handle.readline(MAX_LINE):
        skipped += len(rest)
        if rest.endswith(b"\n"):
            break
    return skipped


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Broken(f"not UTF-8: {error.reason} at byte {error.start}")
    except json.JSONDecodeError as error:
        return Broken(f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, a thousand brackets
        return Broken(f"not JSON that can be read: {error}")


def _over_lines(start: bytes) -> bool:
    """Whether an object goes on in the next line, as nobody's record a line does."""
    first, _, rest = start.partition(b"\n")
    return first.startswith(b"{") and rest.lstrip()[:1] in (b'"', b"}") and isinstance(_parsed(first), Broken)


def _elements(text: io.TextIOWrapper, file: File) -> Iterator[Any]:
    """Parse a list element by element, holding one of them and a chunk."""
    decoder = json.JSONDecoder()
    buffer, at, number = text.read(_CHUNK).lstrip()[1:], 0, 1
    while True:
        at = _past(buffer, at)
        if at < len(buffer) and buffer[at] == "]":
            _check_end(buffer[at + 1 :], text, file)
            return
        try:
            record, at = decoder.raw_decode(buffer, at)
        except (ValueError, RecursionError) as error:
            more = "" if len(buffer) - at > MAX_LINE else text.read(max(_CHUNK, len(buffer) - at))
            if not more:
                raise DataError(
                    f"{file.shown}: element {number} is not JSON, or the file breaks off there: {error}"
                ) from None
            buffer, at = buffer[at:] + more, 0
            continue
        yield record
        number += 1


def _check_end(rest: str, text: io.TextIOWrapper, file: File) -> None:
    """Only white space may follow a list: a second one would be lost."""
    while not rest.strip():
        rest = text.read(_CHUNK)
        if not rest:
            return
    raise DataError(
        f"{file.shown}: after the list's end comes more text, {rest.strip()[:40]!r}: join the lists into one, or write a "
        "record a line"
    )


def _past(buffer: str, at: int) -> int:
    while at < len(buffer) and buffer[at] in " \t\r\n,":
        at += 1
    return at
