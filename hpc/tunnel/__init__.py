"""Ways from a laptop to a login node through SSH."""
