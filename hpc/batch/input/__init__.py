"""Input of batches: JSON lines, CSV and Parquet."""
