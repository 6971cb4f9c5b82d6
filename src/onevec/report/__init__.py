"""What a person reads: results to a dict, the dict to one HTML file."""
