"""6. What vectors are for."""
