"""Blocks that a thread frees stay with its process, so that they are not faulted in again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sftfilter.allocator import allocator_env

AGAIN = """
import resource, threading, torch

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for mebibytes in (100, 300, 200):
        torch.ones(mebibytes << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def work():
    faults()
    print(faults())

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def faults_again(env: dict[str, str]) -> int:
    """Page faults of a thread that makes and drops the same blocks a second time, 600 MiB in all."""
    done = subprocess.run(
        [sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True, env=os.environ | env
    )
    return int(done.stdout)


@pytest.mark.skipif(not allocator_env(), reason="Ray brings no jemalloc on this platform")
def test_blocks_that_a_thread_frees_are_kept() -> None:
    assert faults_again({}) > 100_000
    assert faults_again(allocator_env()) < 1_000


def test_a_library_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libtcmalloc.so")
    assert allocator_env() == {}


@pytest.mark.ray
def test_workers_have_it(local_ray: None) -> None:
    import ray

    @ray.remote
    def loaded() -> bool:
        with open("/proc/self/maps") as file:
            return "jemalloc" in file.read()

    assert ray.get(loaded.remote()) == bool(allocator_env())


def test_it_is_found_without_importing_ray() -> None:
    """Ray reads whether there are tokens when it is first imported, and a run sets them later."""
    code = "import sys; from sftfilter.allocator import allocator_env; allocator_env(); sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
