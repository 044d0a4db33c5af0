"""What to serve and where: models.yaml, the site file, variables and flags, resolved once."""
