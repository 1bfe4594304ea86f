"""Posteriors as bytes: sections of settings, tensors and entropy-coded integers in one checked container."""

from benchmark.compression.container import FORMAT_VERSION
from benchmark.compression.reader import BitReader
from benchmark.compression.writer import BitWriter
from benchmark.errors import CorruptBitstream

__all__ = ["FORMAT_VERSION", "BitReader", "BitWriter", "CorruptBitstream"]
