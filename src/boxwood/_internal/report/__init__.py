"""What people read: statistics, tables and curves."""
