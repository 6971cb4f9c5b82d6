"""The shipped data, encoder and walk behind `onevec demo`."""
