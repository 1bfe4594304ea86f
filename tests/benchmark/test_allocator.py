"""Memory that a process frees stays with it, so that the next pass does not fault it in again."""

import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
from benchmark.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def fill_and_free():
    block = libc.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)

fill_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    fill_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif("glibc" not in __import__("platform").libc_ver()[0], reason="the C library has no mallopt")
def test_freed_blocks_are_reused_without_new_page_faults() -> None:
    def faults(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, mode], check=True, capture_output=True).stdout)

    assert faults("keep") < 100 < faults("default"), "64 MiB are 16,384 pages; huge pages make them fewer, not none"
