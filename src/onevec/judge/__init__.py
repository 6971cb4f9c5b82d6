"""5. What the vector is worth: scores without labels, the verdict, and labelled probes."""
