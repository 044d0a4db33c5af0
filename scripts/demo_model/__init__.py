"""The steps that make the bundled demo model, from the novels to the greedy reference."""
