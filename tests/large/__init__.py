"""Large objects: copies, identity, mutability, memory. Forklift only."""
