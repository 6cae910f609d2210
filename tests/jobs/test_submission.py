"""What is checked before anything is sent: address, token, folder, size, secrets. No cluster is needed to refuse."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.job_server import Reach, check_reach
from jobs.submit import _Shown, prepare
from jobs.uploads import EXCLUDES, upload_of
from sftfilter.errors import MachineError, SpecError

SPEC = "kind: score\nname: x\nrollouts: {T: {kind: rollouts, path: t.jsonl}}\nscorers: {l: {kind: random}}\n"


def _write(folder: Path) -> Path:
    (folder / "t.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (folder / "spec.yaml").write_text(SPEC)
    return folder / "spec.yaml"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://head.example.org:8265", r"in the clear.*ssh -N -L 8265:localhost:8265 head.example.org"),
        ("http://10.0.0.7:8265", "in the clear"),
        ("ray://head:10001", "expected the job server's URL"),
        ("auto", "expected the job server's URL"),
        ("https://user:secret@head", "holds credentials"),
    ],
)
def test_addresses_that_give_the_token_away(address: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as error:
        check_reach(Reach(address))
    assert "user:secret" not in str(error.value)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "http://localhost:1", "http://[::1]:1", "https://head"])
def test_addresses_that_keep_it(address: str) -> None:
    check_reach(Reach(address))
    check_reach(Reach("http://10.0.0.7:8265", allow_plain_http=True))


def test_a_token_file_that_others_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("t")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    token.chmod(0o604)
    with pytest.raises(MachineError, match=f"chmod 600 {token}"):
        check_reach(Reach("https://head"))
    token.chmod(0o600)
    check_reach(Reach("https://head"))
    token.unlink()
    with pytest.raises(MachineError, match="No such file"):
        check_reach(Reach("https://head"))


def test_the_id_follows_from_the_work(tmp_path: Path) -> None:
    spec = _write(tmp_path)
    first = prepare(str(spec), [], tmp_path)
    assert first.stem == prepare(str(spec), [], tmp_path).stem and first.stem.startswith("sft-x-")
    assert first.metadata["spec"] == "spec.yaml" and first.entrypoint == "python -m jobs.run spec.yaml"
    assert first.stem != prepare(str(spec), ["scorers.l.seed=1"], tmp_path).stem
    assert first.stem != prepare(str(spec), ["scoring_pool.max_actors=3"], tmp_path).stem
    (tmp_path / "t.jsonl").write_text('{"prompt": "a", "completion": "c"}\n')
    assert first.stem != prepare(str(spec), [], tmp_path).stem, "the data counts"


def test_the_spec_must_lie_in_the_uploaded_folder(tmp_path: Path) -> None:
    spec = _write(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(SpecError, match="--working-dir"):
        prepare(str(spec), [], tmp_path / "elsewhere")


def test_a_secret_in_an_override_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "a-very-secret-value")
    with pytest.raises(SpecError, match="would be stored with the job") as error:
        prepare(str(_write(tmp_path)), ["results=a-very-secret-value"], tmp_path)
    assert "a-very-secret" not in str(error.value)


def test_the_listing_is_what_ray_packs(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    _write(tmp_path)
    by_name = (
        ".env data/.env.local .envrc .netrc .git-credentials id_rsa keys/id_ed25519 id_ecdsa tls.key data/server.pem"
    )
    ours = "service.token data/endpoint.token .ray/auth_token .aws/credentials data/.ssh/config"
    secret = f"{by_name} {ours}".split()
    for name in (".venv/x", "runs/r", "data/keep.txt", "data/skip.log", ".git/HEAD", *secret):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name * 50)
    (tmp_path / ".gitignore").write_text("*.log\n")
    create_package(str(tmp_path), Path(f"{tmp_path}.zip"), include_gitignore=True, excludes=list(EXCLUDES))
    with zipfile.ZipFile(f"{tmp_path}.zip") as package:
        packed = {name for name in package.namelist() if not name.endswith("/")}
    upload = upload_of(tmp_path)
    assert {str(path) for path, _ in upload.files} == packed == {".gitignore", "t.jsonl", "spec.yaml", "data/keep.txt"}
    assert upload.listing()[0].startswith("uploads 4 files") and upload.listing()[1].endswith("data/keep.txt")
    assert upload.listing()[-1].startswith("  left out: .venv, .git, runs, .cache, .env, .env.*, *.key, *.pem")
    upload.check()
    with pytest.raises(SpecError, match=r"(?s)Ray takes less than 0\.1 KiB.*data/keep\.txt.*\.rayignore"):
        replace(upload, limit=100).check()


def test_a_log_is_printed_once_whatever_the_streams_bring() -> None:
    said: list[str] = []
    shown = _Shown(said.append)
    shown.add("one\ntwo")
    shown.again()  # the connection dropped in the middle of a line
    for piece in ("on", "e\ntw", "o\nthr"):
        shown.add(piece)
    shown.rest("one\ntwo\nthree\nfo", last=False)
    shown.rest("one\ntwo\nthree\nfour", last=True)
    assert "\n".join(said).split("\n") == ["one", "two", "three", "four"]


def test_plain_http_is_refused_by_every_command(tmp_path: Path, tiny_spec: Callable[..., Path]) -> None:
    for command in (
        ["submit", str(tiny_spec())],
        ["status", "x"],
        ["logs", "x"],
        ["stop", "x"],
        ["resume", "x"],
        ["list"],
    ):
        more = ["--working-dir", str(tmp_path)] if command[0] == "submit" else []
        done = CliRunner().invoke(app, [*command, "--address", "http://head.example.org:8265", *more])
        assert done.exit_code == 2, done.output
        assert "in the clear" in done.output
