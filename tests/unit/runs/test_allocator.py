from __future__ import annotations

import os
import subprocess
import sys

import pytest

SIX_TIMES_80_MIB = """
import resource, sys
from smartedge.runs.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
for number in range(6):
    block = b"x" * int(sys.argv[2])
    del block
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def run(argument: str, **environment: str) -> tuple[bool, int]:
    """What :func:`keep_freed_memory` said, and how many pages were faulted in."""
    command = [sys.executable, "-c", SIX_TIMES_80_MIB, argument, str(80 * 2**20)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
    said, faults = done.stdout.split()
    return said == "True", int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is for Linux")
def test_a_freed_block_is_used_again_without_new_pages() -> None:
    kept, few = run("keep")
    if not kept:
        pytest.skip("this C library is not glibc")
    _, many = run("leave")
    if many < 80 * 2**20 // os.sysconf("SC_PAGE_SIZE"):
        pytest.skip("this machine gives huge pages to everybody")
    assert few < 0.4 * many  # a sixth, and the interpreter's own


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is for Linux")
def test_what_the_user_chose_stays() -> None:
    assert not run("keep", MALLOC_MMAP_THRESHOLD_="100000")[0]


SMALL_BLOCKS_AFTER_A_LARGE_ONE = """
import re, sys
from smartedge.runs.allocator import return_freed_memory
said = return_freed_memory() if sys.argv[1] == "return" else False
large = b"x" * 2**24
del large
blocks = [b"x" * 2**20 for _ in range(24)]
del blocks
print(said, re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is for Linux")
def test_freed_blocks_go_back() -> None:
    resident = {}
    for argument in ("return", "leave"):
        command = [sys.executable, "-c", SMALL_BLOCKS_AFTER_A_LARGE_ONE, argument]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        said, kib = done.stdout.split()
        if argument == "return" and said != "True":
            pytest.skip("this C library is not glibc")
        resident[argument] = int(kib)
    assert resident["leave"] - resident["return"] > 12 * 1024


ARENAS_OF_EIGHT_THREADS = """
import ctypes, sys, threading
from smartedge.runs.allocator import share_freed_memory
print(share_freed_memory() if sys.argv[1] == "share" else False, file=sys.stderr)
together = threading.Barrier(8)
def take():
    together.wait()
    block = [b"x" * 2000 for _ in range(1000)]
    together.wait()
threads = [threading.Thread(target=take) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is for Linux")
@pytest.mark.parametrize(("argument", "user"), [("share", {}), ("share", {"MALLOC_ARENA_MAX": "4"}), ("leave", {})])
def test_threads_of_a_cloud_share_one_arena(argument: str, user: dict[str, str]) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", ARENAS_OF_EIGHT_THREADS, argument]
    done = subprocess.run(command, env=clean | user, capture_output=True, text=True, check=False)
    if "malloc_info" in done.stderr:
        pytest.skip("this C library is not glibc")
    arenas = done.stdout.count("<heap nr=")
    if argument == "share" and not user:
        assert (done.stderr.strip(), arenas) == ("True", 1)
    else:
        assert done.stderr.strip() == "False"  # what the user chose stays
        assert arenas > 1
