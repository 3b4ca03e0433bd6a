"""What results say: bounds, diagnosis, claims, tables, charts and pages."""
