"""How large a Parquet file is once it is read: some kilobytes can say the same megabytes in each of a million rows."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

LARGEST = 1 << 30
"""Bytes that a file of events may take, packed or not."""

MOST_ROWS = 2_000_000
"""Rows of a file of events."""


def check_size(file: pq.ParquetFile, data: pa.BufferReader) -> None:
    """Raises ValueError for a file that would fill the memory. data: the same file."""
    about = file.metadata
    if about.num_rows > MOST_ROWS:
        raise ValueError(f"it says that it has {about.num_rows:,} rows, {MOST_ROWS:,} at most are read")
    claimed = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    # Only what is packed by a dictionary can grow, and no value of it is larger than the whole.
    if about.num_rows * claimed <= LARGEST:
        return
    texts = [field.name for field in file.schema_arrow if pa.types.is_string(field.type)]
    total = 0
    with pq.ParquetFile(data, read_dictionary=texts) as packed:
        for name in packed.schema_arrow.names:
            for chunk in packed.read(columns=[name], use_threads=False).column(0).chunks:
                total += _expanded(chunk)
                if total > LARGEST:
                    raise ValueError(f"it unpacks to more than {LARGEST >> 20:,} MB")


def _expanded(chunk: pa.Array) -> int:
    """Bytes of a column's piece without its dictionary."""
    if not pa.types.is_dictionary(chunk.type):
        return int(chunk.nbytes)
    lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
    return int(pc.sum(lengths.take(chunk.indices)).as_py() or 0)
