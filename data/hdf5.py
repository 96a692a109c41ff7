"""What an HDF5 data set claims against what its file holds, looked at before memory is asked for."""

from pathlib import Path

import h5py

from data.errors import InputError

# Deflate, the best packer among HDF5's own filters, packs no better than this; below the size nobody asks.
MAX_GROWTH, MIN_BYTES = 1040, 2**26


def check_stored(path: Path, source: h5py.Dataset) -> None:
    """InputError "truncated" where a data set claims more than its stored chunks can unpack to.

    Chunks that were never written read as zeros: such a data set would fill the memory from a file of a few bytes.
    """
    claimed = source.size * source.dtype.itemsize
    if claimed > max(MIN_BYTES, MAX_GROWTH * source.id.get_storage_size()):
        raise InputError(f"{path} claims {claimed} bytes of data and holds next to none: copy it again.", "truncated")
