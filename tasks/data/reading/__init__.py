"""Examples from the files that people have: JSON lines, JSON, CSV, Parquet and plain text, in the usual shapes."""
