"""What goes wrong with Parquet files."""

import pyarrow as pa

PARQUET_ERRORS = (OSError, pa.ArrowException, UnicodeDecodeError, OverflowError)
"""What pyarrow raises on a damaged file, whose names need be no text and whose sizes no sane numbers."""
