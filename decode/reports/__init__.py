"""What people see of a run: `report.md`, its pictures and tables, and runs side by side."""
