"""Reports: statistics, tables and charts."""
