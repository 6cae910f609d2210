"""Files on disk and in buckets, found by path, folder, glob or list. Credentials come from the environment only."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from sftfilter.config import did_you_mean, file_hash, stable_hash
from sftfilter.errors import DataError

if TYPE_CHECKING:
    from pyarrow import fs

EXTENSIONS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet", ".pq": "parquet"}
EXTENSIONS |= {".csv": "csv", ".tsv": "csv"}
COMPRESSED = (".gz", ".zst")
_DESCRIPTIONS = frozenset({"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"})
"""Files that `datasets` writes beside the data; they hold no rows."""
_GLOB = "*?["
_OPTIONS = {"s3": ("endpoint_override", "region"), "gs": (), "gcs": ()}
_SECRETS = ("access_key", "secret_key", "session_token", "external_id", "role_arn", "token")
_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class File:
    """A file to read.

    Attributes:
        uri: an absolute path, or a URI that names the endpoint too, so that any node opens the same.
        name: its path below the folder that all files of the source share; the same in every clone.
        size: bytes.
        stamp: changes when the content does: the hash of a local file, size and time of a remote one.
    """

    uri: str
    name: str
    size: int
    stamp: str

    @property
    def shown(self) -> str:
        """The path or URI as a person wrote it."""
        return without_options(self.uri)


def without_options(uri: str) -> str:
    """A URI without what says how to reach it; a local path as it is."""
    return uri.partition("?")[0] if "://" in uri else uri


def refused_option(uri: str) -> str | None:
    """Why a URI's options cannot be used, by their names only: what they hold may be a secret."""
    split = urlsplit(uri, allow_fragments=False)
    known = _OPTIONS.get(split.scheme)
    if known is None or not split.query:
        return None
    for name, _ in parse_qsl(split.query, keep_blank_values=True):
        if name in _SECRETS:
            return f"`{name}` does not belong in a path, which is kept: put credentials in the environment"
        if name not in known:
            there = f"there are: {', '.join(known)}" if known else f"{split.scheme}:// has none"
            return f"unknown option '{name[:40]}'; {there}"
    return None


def find(paths: Sequence[str], *, stamps: bool = True) -> list[File]:
    """The files behind paths, folders, globs and URIs, in the order of the list and by name within an entry.

    Args:
        stamps: without them local files are listed and not read; good for a look, not for a key.

    Raises:
        DataError: an entry matches nothing, cannot be reached, or may not be read.
    """
    files = [file for path in paths for file in _matches(path, stamps)]
    unique = list({file.uri: file for file in files}.values())
    parts = [PurePosixPath(urlsplit(f.uri).path if "://" in f.uri else f.uri).parts for f in unique]
    columns = zip(*(p[:-1] for p in parts), strict=False)
    shared = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, columns))
    return [replace(f, name="/".join(p[shared:])) for f, p in zip(unique, parts, strict=True)]


def fingerprint(files: Sequence[File]) -> str:
    """Changes with the files' names and contents, not with the folder they lie in."""
    return stable_hash([[f.name, f.stamp] for f in files])


def extension(name: str) -> str:
    """The extension that tells the format, in small letters and without that of a compression."""
    path = PurePosixPath(name.lower())
    return path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the path on it."""
    from pyarrow import fs

    if "://" not in uri:
        return fs.LocalFileSystem(), uri
    if reason := refused_option(uri):
        raise DataError(f"{without_options(uri)}: {reason}")
    split = urlsplit(uri, allow_fragments=False)
    anonymous = split.username == "anonymous"
    path = split.netloc.rpartition("@")[2] + split.path
    if split.scheme == "s3":
        given = dict(parse_qsl(split.query))
        options: dict[str, Any] = {"connect_timeout": _TIMEOUT_S, "request_timeout": _TIMEOUT_S * 3} | given
        return fs.S3FileSystem(anonymous=anonymous, **options), path
    if split.scheme in ("gs", "gcs"):
        return fs.GcsFileSystem(anonymous=anonymous), path
    raise DataError(f"{uri}: files are read from disk, s3:// and gs://, and datasets from hf://datasets/owner/name")


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what a file system raises into an error that names the file and the remedy."""
    shown = without_options(uri)
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"file not found: {shown}") from error
    except PermissionError as error:
        raise DataError(f"{shown}: may not be read by this user") from error
    except OSError as error:
        text = str(error)
        if "ACCESS_DENIED" in text or "PERMISSION_DENIED" in text or "UNAUTHENTICATED" in text:
            raise DataError(
                f"{shown}: access denied. Credentials are read from the environment (AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role; GOOGLE_APPLICATION_CREDENTIALS for gs://); "
                "a public bucket is written s3://anonymous@bucket/..."
            ) from error
        if "NETWORK_CONNECTION" in text or "UNAVAILABLE" in text or "Could not resolve" in text:
            raise DataError(f"{shown}: the storage cannot be reached (is the endpoint right?): {text[:300]}") from error
        raise DataError(f"{shown}: cannot be read: {text[:300]}") from error


def _matches(path: str, stamps: bool) -> list[File]:
    from pyarrow import fs

    uri = complete(path)
    with explained(uri):
        system, inner = filesystem(uri)
        info = system.get_file_info(inner)
        if info.type == fs.FileType.File:
            return [_file(uri, inner, info, stamps)]
        if info.type == fs.FileType.Directory:
            below = system.get_file_info(fs.FileSelector(inner, recursive=True))
        elif any(c in inner for c in _GLOB):
            below = _glob(system, inner)
        else:
            raise DataError(_nothing(system, uri, inner))
    found = [i for i in below if i.type == fs.FileType.File and _wanted(i.path, inner)]
    if not found:
        what = "no file matches" if any(c in inner for c in _GLOB) else "the folder holds no file that can be read:"
        raise DataError(f"{what} {path}; extensions: {', '.join(EXTENSIONS)}, each plain, .gz or .zst")
    return [_file(uri, i.path, i, stamps) for i in sorted(found, key=lambda i: i.path)]


def complete(path: str) -> str:
    """An absolute path, or a URI with the endpoint and region of this environment, since other nodes may have others."""
    if "://" not in path:
        return str(Path(path).expanduser().absolute())
    if not path.startswith("s3://"):
        return path
    base, _, query = path.partition("?")
    given = dict(parse_qsl(query))
    endpoint = (
        given.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    region = given.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint and not region:
        region = "us-east-1"
    options = {"endpoint_override": endpoint, "region": region or _region(base)}
    return f"{base}?{urlencode({k: v for k, v in (given | options).items() if v})}"


def _region(uri: str) -> str | None:
    from pyarrow import fs

    with explained(uri):
        return fs.resolve_s3_region(urlsplit(uri).netloc.rpartition("@")[2])


def _glob(system: fs.FileSystem, pattern: str) -> list[fs.FileInfo]:
    from fsspec.implementations.arrow import ArrowFSWrapper

    found = [str(p) for p in ArrowFSWrapper(system).glob(pattern)]
    return system.get_file_info(found) if found else []


def _wanted(path: str, asked: str) -> bool:
    """Within a folder only known extensions count, and no hidden file or description; a glob says what it wants."""
    name = PurePosixPath(path).name
    if any(c in asked for c in _GLOB):
        return not name.startswith(".")
    return not name.startswith((".", "_")) and name not in _DESCRIPTIONS and extension(name) in EXTENSIONS


def _file(uri: str, path: str, info: fs.FileInfo, stamps: bool) -> File:
    if "://" not in uri:
        return File(path, "", info.size, file_hash(path) if stamps else "")
    split = urlsplit(uri, allow_fragments=False)
    user = "anonymous@" if split.username else ""
    query = f"?{split.query}" if split.query else ""
    return File(f"{split.scheme}://{user}{path}{query}", "", info.size, f"{info.size}-{info.mtime_ns}")


def _nothing(system: fs.FileSystem, uri: str, inner: str) -> str:
    from pyarrow import fs

    shown = without_options(uri)
    if "://" in uri:
        bucket = inner.partition("/")[0]
        if system.get_file_info(bucket).type == fs.FileType.NotFound:
            return f"{shown}: there is no bucket '{bucket}' (or these credentials may not see it)"
        return f"file not found: {shown}"
    folder = Path(inner).parent
    near = did_you_mean(Path(inner).name, sorted(p.name for p in folder.iterdir())) if folder.is_dir() else ""
    return f"file not found: {shown} (relative paths are resolved against the spec's folder){near}"
