"""Pure translation of a service into the command line of a model server."""
