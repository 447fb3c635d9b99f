"""Examples from the files that people have (JSON lines, JSON, CSV, Parquet, Arrow, plain text), in the usual shapes."""
