"""What containers write: kept in memory or in files, read and followed from there."""
