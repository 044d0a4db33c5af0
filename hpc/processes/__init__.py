"""Programs and processes of the machine."""
